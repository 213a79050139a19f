"""What an integer layer norm reads: whole numbers that are the norm's input up to one scale, or why there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.graph.attributes import read_buffer
from fxquant.graph.shapes import propagate_shapes
from fxquant.lowering.integer_norm import IntegerInput, integer_input
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import dequantize

B, N, C = 2, 6, 4
FACTORS = torch.tensor([1.0, 4.0, 2.0, 1.0])
STEP = 0.3
Move = Callable[[fx.Node], fx.Node]


def stay(value: fx.Node) -> fx.Node:
    return value


def call(name: str, *args: int) -> Move:
    return lambda value: value.graph.call_method(name, (value, *args))


def built(scale: Tensor, axis: int | None, move: Move, shape: tuple[int, ...], normalised: tuple[int, ...]) -> fx.Node:
    """Return the layer norm of ``move(dequantize(codes))``; the zero points differ wherever the scales may."""
    gm = fx.GraphModule(nn.Module(), fx.Graph())
    graph = gm.graph
    codes = graph.placeholder("codes")
    zero = torch.arange(scale.numel(), dtype=torch.int32).reshape(scale.shape) + 3
    how = read_buffer(graph, "scale", scale), read_buffer(graph, "zero", zero), 0, 255, axis
    norm = graph.call_function(F.layer_norm, (move(graph.call_function(dequantize, (codes, *how))), normalised))
    graph.output(norm)
    gm.recompile()
    propagate_shapes(gm, [torch.zeros(shape, dtype=torch.int8)])
    return norm


def input_of(norm: fx.Node) -> IntegerInput | str:
    with norm.graph.inserting_before(norm):
        return integer_input(norm.graph, norm)


CHANNELS_LAST = (B, N, C)
ACCEPTED: dict[str, tuple[Tensor, int | None, Move, tuple[int, ...]]] = {
    "one scale": (torch.tensor(STEP), None, stay, CHANNELS_LAST),
    "one scale, moved": (torch.tensor(STEP), None, call("reshape", B, C, N), CHANNELS_LAST),
    "channels": (STEP * FACTORS, 2, stay, CHANNELS_LAST),
    "channels of an image": (
        STEP * FACTORS,
        1,
        lambda value: call("transpose", 1, 2)(call("flatten", 2)(value)),
        (B, C, 2, 3),
    ),
    "channels beside moved tokens": (STEP * FACTORS, 2, call("reshape", B * N, C), CHANNELS_LAST),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_whole_numbers_are_the_input_up_to_one_scale(name: str) -> None:
    scale, axis, move, shape = ACCEPTED[name]
    norm = built(scale, axis, move, shape, (N if name == "one scale, moved" else C,))
    source, graph = norm.args[0], norm.graph
    read = input_of(norm)
    assert isinstance(read, IntegerInput)
    graph.output_node().args = ((read.codes, source),)
    gm = fx.GraphModule(graph.owning_module, graph)  # type: ignore[arg-type]
    codes, values = gm(torch.randint(-128, 128, shape, dtype=torch.int8))
    assert codes.dtype == torch.int8
    assert codes.shape == values.shape == read.codes.meta["val"].shape
    assert read.factor.dtype == read.zero_point.dtype == torch.int32
    whole = (codes.to(torch.int32) + storage_offset(read.qmax) - read.zero_point) * read.factor
    assert torch.allclose(whole * float(scale.min()), values, rtol=1e-6)


def interleaved(value: fx.Node) -> fx.Node:
    """Let every row of the norm begin with another channel."""
    return call("reshape", B, 2 * N, C // 2)(value)


POWERS = "no powers of two of one another"
REFUSED: dict[str, tuple[Tensor, int | None, Move, tuple[int, ...], str]] = {
    "several axes": (torch.tensor(STEP), None, stay, (N, C), "several axes"),
    "scales between": (STEP * torch.tensor([1.0, 1.5, 2.0, 1.0]), 2, stay, (C,), POWERS),
    "almost whole": (STEP * torch.tensor([1.0, 2.001, 2.0, 1.0]), 2, stay, (C,), POWERS),
    "mixed channels": (STEP * FACTORS, 2, interleaved, (C // 2,), "channels are moved on the way"),
    "a scale per token": (STEP * torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0, 4.0]), 1, stay, (C,), "channels are moved"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_whole_numbers_is_refused_and_left_alone(name: str) -> None:
    scale, axis, move, normalised, reason = REFUSED[name]
    norm = built(scale, axis, move, CHANNELS_LAST, normalised)
    before = str(norm.graph)
    assert reason in input_of(norm)
    assert str(norm.graph) == before


def test_a_computed_input_is_not_rounded() -> None:
    norm = built(
        torch.tensor(STEP), None, lambda value: value.graph.call_function(F.gelu, (value,)), CHANNELS_LAST, (C,)
    )
    assert input_of(norm) == "its input is not rounded"
