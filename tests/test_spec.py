"""Each stage refuses what is not legal there, and accepts what is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, QuantConfig, TwinGELU, TwinSoftmax, UnsupportedGraphError
from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.stages import Stage
from fxquant.ops import (
    dequantize,
    dequantize_twin,
    fake_quantize_summed_twin,
    int8_linear,
    int8_linear_twin,
    int8_matmul,
    int8_matmul_twin,
    quantize,
    quantize_twin,
)
from fxquant.spec import verify

X = torch.randn(2, 20, 4)
PREPARED = fxquant.prepare(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).eval(), fxquant.recipe("minmax"))
PREPARED(X)
GRAPHS = {
    Stage.FLOAT: fxquant.trace(nn.Linear(4, 4).eval()),
    Stage.PREPARED: PREPARED,
    Stage.QUANTISED: fxquant.convert(PREPARED, "fake"),
    Stage.LOWERED: fxquant.convert(PREPARED),
}
NEXT_STAGE = {Stage.FLOAT: Stage.PREPARED, Stage.PREPARED: Stage.FLOAT, Stage.QUANTISED: Stage.LOWERED}


def only(gm: fx.GraphModule, target: Any) -> fx.Node:
    return next(n for n in gm.graph.nodes if n.target is target)


def appended(gm: fx.GraphModule, op: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """Put a call of `target` on the last value before the output, with further arguments."""
    output = next(n for n in gm.graph.nodes if n.op == "output")
    with gm.graph.inserting_before(output):
        node = gm.graph.create_node(op, target, (output.args[0], *args), kwargs)
    output.update_arg(0, node)
    return node


@pytest.mark.parametrize("stage", Stage)
def test_the_verbs_make_legal_graphs(stage: Stage) -> None:
    verify(GRAPHS[stage], stage)


@pytest.mark.parametrize("stage", [Stage.FLOAT, Stage.PREPARED, Stage.QUANTISED])
def test_no_stage_is_legal_as_the_one_that_follows(stage: Stage) -> None:
    with pytest.raises(UnsupportedGraphError, match=f"not legal at stage {NEXT_STAGE[stage].value}"):
        verify(annotated(GRAPHS[stage], stage), NEXT_STAGE[stage])


def annotated(gm: fx.GraphModule, stage: Stage) -> fx.GraphModule:
    """Give a float graph the records that a prepared one has, but no observers."""
    if stage is not Stage.FLOAT:
        return gm
    gm = copy.deepcopy(gm)
    only(gm, F.linear).meta["fxquant"] = only(PREPARED, F.linear).meta["fxquant"]
    return gm


Change = Callable[[fx.GraphModule], object]


def _quantize_args(gm: fx.GraphModule) -> tuple[Any, ...]:
    return (read_buffer(gm.graph, "s", torch.ones(())), None, 0, 255)


def _wrong_scale(gm: fx.GraphModule) -> None:
    node = only(gm, dequantize)
    with gm.graph.inserting_before(node):
        node.update_arg(1, read_buffer(gm.graph, "s", torch.ones(())))


def _float_codes(target: Any, position: int) -> Change:
    def change(gm: fx.GraphModule) -> None:
        for node in [n for n in gm.graph.nodes if n.target is target and n.args[position].op == "get_attr"]:
            with gm.graph.inserting_before(node):
                node.update_arg(position, read_buffer(gm.graph, "w", tensor_of(node.args[position]).float()))

    return change


def _without_observer(gm: fx.GraphModule) -> None:
    node = only(gm, F.linear)
    node.update_arg(1, node.args[1].args[0])  # type: ignore[union-attr]


def _module(gm: fx.GraphModule) -> None:
    gm.add_module("act", nn.GELU())
    appended(gm, "call_module", "act")


def _out(gm: fx.GraphModule) -> None:
    x = next(n for n in gm.graph.nodes if n.op == "placeholder")
    appended(gm, "call_function", torch.add, x, out=x)


SPELLING = "expected the canonical spelling"
IN_PLACE = "not changed in place"
REFUSED: list[tuple[Stage, str, Change]] = [
    *((stage, SPELLING, lambda gm: appended(gm, "call_method", "softmax", -1)) for stage in Stage),
    *((stage, SPELLING, lambda gm: appended(gm, "call_method", "softmax", dim=-1)) for stage in Stage),
    *((s, rf"{SPELLING} operator\.add\(", lambda gm: appended(gm, "call_function", torch.add, 1)) for s in Stage),
    *((stage, IN_PLACE, lambda gm: appended(gm, "call_method", "add_", 1)) for stage in Stage),
    *((stage, IN_PLACE, lambda gm: appended(gm, "call_function", F.relu, inplace=True)) for stage in Stage),
    *((stage, IN_PLACE, _out) for stage in Stage),
    *((s, "modules are inlined", _module) for s in (Stage.FLOAT, Stage.QUANTISED, Stage.LOWERED)),
    (Stage.PREPARED, "only observers, and what trains a model, may be called", _module),
    (Stage.PREPARED, "'0.weight' has no observer", _without_observer),
    *(
        (stage, "not quantised before convert", lambda gm: appended(gm, "call_function", quantize, *_quantize_args(gm)))
        for stage in (Stage.FLOAT, Stage.PREPARED)
    ),
    (Stage.QUANTISED, "at lowering", lambda gm: appended(gm, "call_function", int8_linear)),
    (Stage.QUANTISED, "does not undo the quantize", _wrong_scale),
    (Stage.QUANTISED, "expected int8 codes, found torch.float32", _float_codes(dequantize, 0)),
    (Stage.LOWERED, "expected int8 codes, found torch.float32", _float_codes(int8_linear, 1)),
]


@pytest.mark.parametrize(("stage", "problem", "change"), REFUSED)
def test_refuses(stage: Stage, problem: str, change: Change) -> None:
    gm = copy.deepcopy(GRAPHS[stage])
    change(gm)
    with pytest.raises(UnsupportedGraphError, match=problem) as raised:
        verify(gm, stage)
    assert "node '" in str(raised.value)


class Twin(nn.Module):
    """Attention and a GELU in front of a linear layer, without weights but for that layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.gelu(F.softmax(x @ x.mT, -1) @ x))  # type: ignore[no-any-return]


def twin_graphs(**options: bool) -> dict[Stage, fx.GraphModule]:
    layer = LayerSpec(softmax=TwinSoftmax(**options), gelu=TwinGELU())
    prepared = fxquant.prepare(Twin().eval(), QuantConfig(layer, attention=True), X)
    prepared(X)
    converted = {Stage.QUANTISED: fxquant.convert(prepared, "fake"), Stage.LOWERED: fxquant.convert(prepared)}
    return {Stage.PREPARED: prepared} | converted


TWINS = twin_graphs()


@pytest.mark.parametrize("stage", TWINS)
def test_twin_graphs_are_legal(stage: Stage) -> None:
    verify(TWINS[stage], stage)


def test_the_published_form_stays_simulated() -> None:
    gm = twin_graphs(published=True)[Stage.LOWERED]
    verify(gm, Stage.LOWERED)
    assert only(gm, fake_quantize_summed_twin)
    assert only(gm, torch.matmul)


def _wrong_split(gm: fx.GraphModule) -> None:
    node = only(gm, dequantize_twin)
    with gm.graph.inserting_before(node):
        node.update_arg(3, read_buffer(gm.graph, "split", torch.ones(())))


def _constant_codes(target: Any, position: int) -> Change:
    def change(gm: fx.GraphModule) -> None:
        node = only(gm, target)
        with gm.graph.inserting_before(node):
            node.update_arg(position, read_buffer(gm.graph, "w", torch.ones(2, 20, 20)))

    return change


FLOAT_CODES = "expected int8 codes, found torch.float32"
REFUSED_TWINS: list[tuple[Stage, str, Change]] = [
    *(
        (Stage.PREPARED, "not quantised before convert", lambda gm, f=f: appended(gm, "call_function", f))
        for f in (quantize_twin, dequantize_twin, fake_quantize_summed_twin)
    ),
    *(
        (Stage.QUANTISED, "at lowering", lambda gm, f=f: appended(gm, "call_function", f))
        for f in (int8_linear_twin, int8_matmul, int8_matmul_twin)
    ),
    (Stage.QUANTISED, "does not undo the quantize", _wrong_split),
    (Stage.LOWERED, FLOAT_CODES, _float_codes(int8_linear_twin, 1)),
    *((Stage.LOWERED, FLOAT_CODES, _constant_codes(f, at)) for f in (int8_matmul, int8_matmul_twin) for at in (0, 1)),
]


@pytest.mark.parametrize(("stage", "problem", "change"), REFUSED_TWINS)
def test_refuses_broken_twin_graphs(stage: Stage, problem: str, change: Change) -> None:
    gm = copy.deepcopy(TWINS[stage])
    change(gm)
    with pytest.raises(UnsupportedGraphError, match=problem):
        verify(gm, stage)


def test_products_of_activations_are_lowered() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"'matmul' .*could run on codes and was not lowered"):
        verify(TWINS[Stage.QUANTISED], Stage.LOWERED)


@pytest.mark.parametrize(
    "change",
    [
        lambda gm: appended(gm, "call_function", torch.add, 1, alpha=2),
        lambda gm: appended(gm, "call_method", "div", 2, rounding_mode="floor"),
        lambda gm: appended(gm, "call_function", F.softmax, -1, dtype=torch.float64),
        lambda gm: appended(gm, "call_function", F.relu, inplace=False),
        lambda gm: appended(gm, "call_method", "__neg__"),
    ],
)
@pytest.mark.parametrize("stage", Stage)
def test_accepts_what_has_no_other_spelling(stage: Stage, change: Change) -> None:
    gm = copy.deepcopy(GRAPHS[stage])
    change(gm)
    verify(gm, stage)


def test_between_passes_what_is_still_to_be_done_is_legal() -> None:
    unlowered = GRAPHS[Stage.QUANTISED]
    verify(unlowered, Stage.LOWERED, complete=False)
    with pytest.raises(UnsupportedGraphError, match="could run on codes and was not lowered"):
        verify(unlowered, Stage.LOWERED)


def test_a_product_that_cannot_be_lowered_is_legal() -> None:
    gm = fxquant.prepare(nn.Linear(4, 4).eval(), fxquant.QuantConfig(fxquant.LayerSpec(activation=None)))
    gm(X)
    verify(fxquant.convert(gm, "fake"), Stage.LOWERED)
