"""At every stage the graph is an ordinary `GraphModule`: copied, saved, printed, exported, compiled."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import fxquant
from fxquant.graph.stages import stage_of
from fxquant.observers import Observer
from tests.support.models import images, small_vit
from tests.support.tiers import keep_quick

MINMAX = fxquant.recipe("minmax")
TRACED = fxquant.trace(small_vit())
CALIBRATED = fxquant.calibrate(fxquant.prepare(TRACED, MINMAX), [images()], progress=False)
STAGES = {
    "float": TRACED,
    "prepared": CALIBRATED,
    "quantised": fxquant.convert(CALIBRATED, "fake"),
    "lowered": fxquant.convert(CALIBRATED),
}
each_stage = pytest.mark.parametrize("stage", STAGES)


@each_stage
def test_a_deep_copy_is_independent(stage: str) -> None:
    gm, x = STAGES[stage], images(2)
    with torch.no_grad():
        expected = gm(x)
        copied = copy.deepcopy(gm)
        assert stage_of(copied) is stage_of(gm)
        assert torch.equal(copied(x), expected)
        for tensor in (*copied.parameters(), *copied.buffers()):
            tensor.zero_()
        assert torch.equal(gm(x), expected)


@each_stage
def test_a_state_dict_restores_a_graph(stage: str) -> None:
    gm, x = STAGES[stage], images(2)
    file = io.BytesIO()
    torch.save(gm.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(gm)
    for tensor in (*other.parameters(), *other.buffers()):
        with torch.no_grad():
            tensor.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(x), gm(x))


@each_stage
def test_graphs_can_be_printed(stage: str) -> None:
    gm = STAGES[stage]
    text = gm.print_readable(print_output=False)
    assert "layer_norm" in text
    assert ("int8_linear" in text) == (stage == "lowered")


@each_stage
def test_graphs_can_be_printed_as_a_table(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tabulate", reason="torch needs it for print_tabular")
    STAGES[stage].graph.print_tabular()
    assert "placeholder" in capsys.readouterr().out


@each_stage
def test_graphs_can_be_exported_with_a_free_batch_size(stage: str) -> None:
    gm = STAGES[stage]
    before = {name: value.clone() for name, value in gm.named_buffers()}
    program = torch.export.export(gm, (images(4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(dict(gm.named_buffers()), before, rtol=0, atol=0)
    x = images(3, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), copy.deepcopy(gm)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", keep_quick(["quantised", "lowered"], "lowered"))
def test_converted_graphs_can_be_compiled(stage: str) -> None:
    gm, x = copy.deepcopy(STAGES[stage]), images(3, seed=1)
    compiled = torch.compile(gm, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        # Another order of sums may move a value across a rounding boundary.
        assert (compiled(x) - gm(x)).norm() < 0.02 * gm(x).norm()


def test_fxquant_compile_gives_what_the_graph_gives() -> None:
    prepared = fxquant.calibrate(fxquant.prepare(nn.Linear(8, 8).eval(), MINMAX), [torch.randn(6, 8)], progress=False)
    gm, x = fxquant.convert(prepared), torch.randn(6, 8)
    with torch.no_grad():
        torch.testing.assert_close(fxquant.compile(gm)(x), gm(x), rtol=1e-5, atol=1e-5)


def test_statistics_are_gathered_under_torch_compile_too() -> None:
    prepared = fxquant.prepare(nn.Linear(8, 8).eval(), MINMAX)
    torch.compile(prepared, backend="eager")(torch.randn(6, 8))
    assert all(m.calibrated for m in prepared.modules() if isinstance(m, Observer))
    fxquant.convert(prepared)
