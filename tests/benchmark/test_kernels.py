"""Kernels by product: grouped, named, with the reason where a product stays float."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch import fx

import fxquant
from fxquant.benchmark.kernels import group_products, list_kernels
from fxquant.benchmark.subject import Subject
from fxquant.inspection.report import ProductReport


def test_products_of_blocks_share_a_line(subject: Subject) -> None:
    lines = list_kernels(subject.quantized(), compiled=False)
    names = [line.name for line in lines]
    assert "blocks.*.attn.qkv" in names
    assert names[0].startswith("patch_embed")
    assert names[-1] == "head"
    attention = next(line for line in lines if not line.int8)
    assert attention.reason
    assert sum(line.count for line in lines) == len(fxquant.report(subject.quantized()))
    assert all(line.macs > 0 for line in lines)


def test_lines_add_up() -> None:
    report = [replace(_record(), name=f"blocks.{i}.mlp.fc1", macs=10) for i in range(3)] + [
        replace(_record(), name="blocks.3.mlp.fc1", macs=10, int8=False, reason="because")
    ]
    lines = group_products(report)
    assert [(line.count, line.macs, line.reason) for line in lines] == [(3, 30, None), (1, 10, "because")]
    assert lines[0].as_json()["kernel"] == "k"


def test_compiled_graphs_are_asked_for_their_own_kernels(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    gm, packed = subject.quantized(), subject.quantized()
    for name, graph in (("eager", gm), ("packed", packed)):
        graph.meta["kernel"] = name

    def report(model: fx.GraphModule) -> list[ProductReport]:
        return [replace(_record(), kernel=getattr(model, "graph_module", model).meta["kernel"])]

    monkeypatch.setattr(fxquant, "report", report)
    for compiled, wanted in ((SimpleNamespace(graph_module=packed), "packed"), (SimpleNamespace(), "eager")):
        monkeypatch.setattr(fxquant, "compile", lambda _, compiled=compiled: compiled)
        assert [line.kernel for line in list_kernels(gm, compiled=True)] == [wanted]
        assert [line.kernel for line in list_kernels(gm, compiled=False)] == ["eager"]


def _record() -> ProductReport:
    return ProductReport("x", "x", "linear", (), None, macs=1, int8=True, requested=True, reason=None, kernel="k")
