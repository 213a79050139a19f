"""Each stage refuses what is not legal there, and accepts what is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import fxquant
from fxquant import UnsupportedGraphError
from fxquant.attributes import read_buffer, tensor_of
from fxquant.ops import dequantize, int8_linear, quantize
from fxquant.spec import Stage, verify

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
    *((stage, SPELLING, lambda gm: appended(gm, "call_function", torch.add, 1)) for stage in Stage),
    *((stage, IN_PLACE, lambda gm: appended(gm, "call_method", "add_", 1)) for stage in Stage),
    *((stage, IN_PLACE, lambda gm: appended(gm, "call_function", F.relu, inplace=True)) for stage in Stage),
    *((stage, IN_PLACE, _out) for stage in Stage),
    *((s, "modules are inlined", _module) for s in (Stage.FLOAT, Stage.QUANTISED, Stage.LOWERED)),
    (Stage.PREPARED, "only observers may be called", _module),
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
    with pytest.raises(UnsupportedGraphError, match="could run on int8 and was not lowered"):
        verify(unlowered, Stage.LOWERED)


def test_a_product_that_cannot_be_lowered_is_legal() -> None:
    gm = fxquant.prepare(nn.Linear(4, 4).eval(), fxquant.QuantConfig(fxquant.LayerSpec(activation=None)))
    gm(X)
    verify(fxquant.convert(gm, "fake"), Stage.LOWERED)
