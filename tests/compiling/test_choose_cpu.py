"""`sites_for_onednn` names the layers that were measured to be faster, one measurement for each kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec, TwinGELU
from fxquant.compiling import choose_cpu
from fxquant.compiling.choose_cpu import sites_for_onednn
from fxquant.ops.onednn_linear import is_available
from fxquant.passes.fuse_gelu import fuse_gelu
from fxquant.passes.fuse_residual import fuse_residual
from tests.support.lowered import lowered
from tests.support.needs_cpu_kernels import needs_kernels

X = torch.randn(2, 5, 8)


class Blocks(nn.Module):
    """Two MLPs with residuals."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, 16), nn.Linear(16, width)
        self.c, self.d = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.b(F.gelu(self.a(x)))
        return x + self.d(F.gelu(self.c(x)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Let oneDNN win where GELU follows, and return the list of all that was asked."""
    asked: list[tuple[Any, ...]] = []

    def faster(*what: Any) -> bool:
        asked.append(what)
        return what[4] is not None

    monkeypatch.setattr(choose_cpu, "has_onednn", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_int8": True})
    monkeypatch.setattr(choose_cpu, "_onednn_is_faster", faster)
    return asked


def graph(config: QuantConfig | None = None, width: int = 8, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
    x = torch.randn(2, 5, width).to(dtype)
    return lowered(Blocks(width).to(dtype), x, config, fuse_gelu, fuse_residual)


def test_names_the_layers_that_win(measured: list[tuple[Any, ...]]) -> None:
    assert sites_for_onednn(graph()) == {"a", "c"}
    threads = torch.get_num_threads()
    first = (10, 8, 16, torch.float32, "none", False, True, threads)
    second = (10, 16, 8, torch.float32, None, True, False, threads)
    assert measured == [first, second, first, second]


@pytest.mark.parametrize("missing", ["oneDNN", "AMX"])
def test_where_it_cannot_win_nothing_is_measured(
    missing: str, measured: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "oneDNN":
        monkeypatch.setattr(choose_cpu, "has_onednn", lambda: False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_int8": False, "avx512_vnni": True})
    assert sites_for_onednn(graph()) == frozenset()
    assert not measured


AFFINE = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))


def test_what_the_two_do_not_both_take(measured: list[tuple[Any, ...]]) -> None:
    assert not sites_for_onednn(graph(AFFINE))
    assert not measured, "affine weights"
    assert sites_for_onednn(graph(QuantConfig(LayerSpec(gelu=TwinGELU())))) == {"a", "c"}
    assert len(measured) == 2, "twin-uniform inputs are not measured"
    measured.clear()
    sites_for_onednn(graph(width=6))
    assert {what[1] for what in measured} == {16}, "6 is no multiple of 4"
    measured.clear()
    sites_for_onednn(graph(dtype=torch.float16))
    assert {what[3] for what in measured} <= {torch.float32}, "float16"
    gm = graph()
    for node in gm.graph.nodes:
        node.meta.pop("val", None)
    measured.clear()
    assert not sites_for_onednn(gm)
    assert not measured, "unknown shapes"


needs_both = pytest.mark.skipif(not is_available(), reason="no oneDNN integer linear layer for this processor")
KINDS = [("none", False, True), (None, True, False), (None, False, False)]


@needs_kernels
@needs_both
@pytest.mark.parametrize(("gelu", "added", "codes"), KINDS)
@pytest.mark.parametrize(("mine", "theirs", "faster"), [(2.0, 1.0, True), (1.0, 2.0, False), (1.04, 1.0, False)])
def test_the_faster_one_wins_by_a_margin(
    gelu: str | None,
    added: bool,
    codes: bool,
    mine: float,
    theirs: float,
    faster: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Tensor] = []

    def seconds(run: Any) -> float:
        ran.append(run())
        return mine if run.__name__ == "own" else theirs

    monkeypatch.setattr(choose_cpu, "_seconds", seconds)
    choose_cpu._onednn_is_faster.cache_clear()
    found = choose_cpu._onednn_is_faster(20, 8, 12, torch.float32, gelu, added, codes, 1)
    choose_cpu._onednn_is_faster.cache_clear()
    assert found is faster
    assert len(ran) == 2 * choose_cpu.ROUNDS
    assert all(y.shape == (20, 12) and y.dtype is (torch.int8 if codes else torch.float32) for y in ran)
    difference = (ran[0].double() - ran[-1].double()).abs().max()
    assert difference <= (1 if codes else 1e-5), "both compute the same"


@needs_kernels
@needs_both
def test_a_kind_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def seconds(run: Any) -> float:
        nonlocal count
        count += 1
        return 1.0

    capabilities = {**torch.cpu.get_capabilities(), "amx_int8": True}
    monkeypatch.setattr(choose_cpu, "_seconds", seconds)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    choose_cpu._onednn_is_faster.cache_clear()
    sites_for_onednn(graph())
    choose_cpu._onednn_is_faster.cache_clear()
    assert count == 2 * 2 * choose_cpu.ROUNDS, "two kinds, two kernels"


def test_seconds_are_those_of_the_call() -> None:
    ran = []
    assert 0 <= choose_cpu._seconds(lambda: ran.append(1) or torch.zeros(1)) < 1  # type: ignore[func-returns-value]
    assert ran == [1]
