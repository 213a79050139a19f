"""`dequantize_late` moves codes instead of floats; the values stay the same, bit for bit where they are only moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import PerChannel, QuantConfig, TensorSpec
from fxquant.config.placement import Placement
from fxquant.graph.attributes import get_tensor
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops import dequantize, int8_matmul, quantize
from fxquant.passes.dequantize_late import dequantize_late
from fxquant.passes.quantize_operands import quantize_operands
from fxquant.spec import verify
from tests.support.check_pass import check_pass, check_unchanged, render, through

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
U8 = TensorSpec()
SPECS = [U8, TensorSpec(6, signed=True, symmetric=True)]


class Moved(nn.Module):
    """What becomes of the quantised result of a linear layer."""

    def __init__(self, move: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.move = nn.Linear(6, 12), move

    def forward(self, x: Tensor) -> Any:
        return self.move(self.fc(x))


def simulated(move: Any, spec: OperandSpec = U8) -> fx.GraphModule:
    """Return `Moved` with quantised values, before anything else."""
    prepared = fxquant.prepare(Moved(move).eval(), QuantConfig(placement=Placement(linear=spec, logits=spec)))
    prepared(X)
    gm = through(prepared, quantize_operands)
    propagate_shapes(gm, [X])
    return gm


def of_target(gm: fx.GraphModule, *targets: Any) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target in targets]


def test_queries_keys_and_values_are_split_as_codes() -> None:
    def attend(y: Tensor) -> Tensor:
        q, k, v = y.reshape(-1, 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        return F.softmax((q * 0.125) @ k.transpose(-2, -1), -1) @ v

    gm = check_pass(
        dequantize_late,
        simulated(attend),
        (X,),
        before="""
            (x)
            check_input = check_input(x, (None, None, 6), 'x')
            dequantize = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(check_input, dequantize, fc.bias)
            quantize = quantize(linear, fc.linear_scale, fc.linear_zero_point, 0, 255)
            dequantize_1 = dequantize(quantize, fc.linear_scale, fc.linear_zero_point, 0, 255)
            reshape = dequantize_1.reshape(-1, 4, 3, 2, 2)
            permute = reshape.permute(2, 0, 3, 1, 4)
            unbind = permute.unbind(0)
            getitem = unbind[0]
            getitem_1 = unbind[1]
            getitem_2 = unbind[2]
            mul = getitem * 0.125
            transpose = getitem_1.transpose(-2, -1)
            matmul = torch.matmul(mul, transpose)
            softmax = F.softmax(matmul, -1)
            matmul_1 = torch.matmul(softmax, getitem_2)
            return matmul_1
        """,
        after="""
            (x)
            check_input = check_input(x, (None, None, 6), 'x')
            dequantize = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(check_input, dequantize, fc.bias)
            quantize = quantize(linear, fc.linear_scale, fc.linear_zero_point, 0, 255)
            reshape = quantize.reshape(-1, 4, 3, 2, 2)
            permute = reshape.permute(2, 0, 3, 1, 4)
            unbind = permute.unbind(0)
            getitem = unbind[0]
            getitem_1 = unbind[1]
            getitem_2 = unbind[2]
            dequantize_1 = dequantize(getitem_2, fc.linear_scale, fc.linear_zero_point, 0, 255)
            dequantize_2 = dequantize(getitem, fc.linear_scale_scaled, fc.linear_zero_point, 0, 255)
            transpose = getitem_1.transpose(-2, -1)
            dequantize_3 = dequantize(transpose, fc.linear_scale, fc.linear_zero_point, 0, 255)
            matmul = torch.matmul(dequantize_2, dequantize_3)
            softmax = F.softmax(matmul, -1)
            matmul_1 = torch.matmul(softmax, dequantize_1)
            return matmul_1
        """,
        stage=Stage.QUANTISED,
    )
    assert get_tensor(gm, "fc.linear_scale_scaled") == get_tensor(gm, "fc.linear_scale") * 0.125
    moved = of_target(gm, "reshape", "permute", "transpose")
    assert all(n.meta["val"].dtype is torch.int8 for n in moved)
    assert all(n.meta["val"].dtype is torch.float32 for n in of_target(gm, dequantize) if n.args[0].op != "get_attr")  # type: ignore[union-attr]
    for batch in (1, 3):
        assert gm(torch.randn(batch, 4, 6)).shape == (batch, 2, 4, 2)


MOVES: dict[str, Any] = {
    "reshape": lambda y: y.reshape(-1, 2, 2, 12),
    "view": lambda y: y.view(-1, 12),
    "permute": lambda y: y.permute(2, 0, 1),
    "torch.permute": lambda y: torch.permute(y, (1, 2, 0)),
    "transpose": lambda y: y.transpose(1, 2),
    "contiguous": lambda y: y.transpose(1, 2).contiguous().view(-1, 48),
    "flatten": lambda y: y.flatten(1),
    "torch.flatten": lambda y: torch.flatten(y, 1, 2),
    "unsqueeze": lambda y: y.unsqueeze(1).squeeze(1),
    "roll": lambda y: torch.roll(y, (1, 2), (1, 2)),
    "getitem": lambda y: y[:, 1:3, ::2],
    "one token": lambda y: y[:, 0],
    "chunk": lambda y: y.chunk(3, -1)[1],
    "chunk by keyword": lambda y: y.chunk(3, dim=-1)[2],
    "split": lambda y: y.split(5, -1)[0],
    "torch.unbind": lambda y: torch.unbind(y, 1)[3],
    "padding": lambda y: F.pad(y, (0, 0, 1, 2)),
    "padding by name": lambda y: F.pad(y, (1, 0), mode="constant", value=0.0),
    "padding, twice": lambda y: F.pad(F.pad(y, (1, 1)), (0, 0, 2, 0)).transpose(1, 2),
    "windows": lambda y: torch.roll(y.view(-1, 2, 2, 12), (-1, -1), (1, 2)).permute(0, 2, 1, 3).reshape(-1, 4, 12),
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.dtype}{'' if s.symmetric else ', affine'}")
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_exact(name: str, spec: TensorSpec) -> None:
    original = simulated(MOVES[name], spec)
    result = dequantize_late(simulated(MOVES[name], spec))
    gm = result.graph_module
    assert result.modified
    assert not dequantize_late(gm).modified
    verify(gm, Stage.QUANTISED)
    value = gm.graph.output_node().args[0]
    assert isinstance(value, fx.Node)
    assert value.target is dequantize
    assert len(of_target(gm, dequantize)) == 2, "the weight's and this one"
    with torch.no_grad():
        for x in (X, torch.randn(3, 4, 6) * 5):
            assert torch.equal(gm(x), original(x))


@pytest.mark.parametrize(("spec", "zero"), [(U8, None), (SPECS[1], 0)])
def test_padding_is_the_code_of_zero(spec: TensorSpec, zero: int | None) -> None:
    original = simulated(lambda y: F.pad(y, (0, 0, 0, 1)), spec)
    point = ", fc.logits_zero_point" if zero is None else ", None"
    zero = int(get_tensor(original, "fc.logits_zero_point")) - 128 if zero is None else zero
    codes = f"{spec.qmin}, {spec.qmax}"
    assert zero != 0 or spec.symmetric
    check_pass(
        dequantize_late,
        original,
        (X,),
        after=f"""
            (x)
            check_input = check_input(x, (None, None, 6), 'x')
            dequantize = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(check_input, dequantize, fc.bias)
            quantize = quantize(linear, fc.logits_scale{point}, {codes})
            pad = F.pad(quantize, (0, 0, 0, 1), mode='constant', value={zero})
            dequantize_1 = dequantize(pad, fc.logits_scale{point}, {codes})
            return dequantize_1
        """,
        stage=Stage.QUANTISED,
    )


@pytest.mark.parametrize("number", [0.125, 2, 0.3535533905932738])
def test_a_number_is_part_of_the_scale(number: float) -> None:
    gm = check_pass(
        dequantize_late,
        simulated(lambda y: y.transpose(1, 2) * number),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 6), 'x')
            dequantize = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(check_input, dequantize, fc.bias)
            quantize = quantize(linear, fc.logits_scale, fc.logits_zero_point, 0, 255)
            transpose = quantize.transpose(1, 2)
            dequantize_1 = dequantize(transpose, fc.logits_scale_scaled, fc.logits_zero_point, 0, 255)
            return dequantize_1
        """,
        stage=Stage.QUANTISED,
        tolerance=0.0 if number in (0.125, 2) else 1e-6,
    )
    torch.testing.assert_close(get_tensor(gm, "fc.logits_scale_scaled"), get_tensor(gm, "fc.logits_scale") * number)


def test_what_else_reads_the_values_reads_them_as_before() -> None:
    gm = check_pass(
        dequantize_late,
        simulated(lambda y: (y.transpose(1, 2), y + 1)),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 6), 'x')
            dequantize = dequantize(fc.weight_codes, fc.weight_scale, None, -128, 127, 0)
            linear = F.linear(check_input, dequantize, fc.bias)
            quantize = quantize(linear, fc.logits_scale, fc.logits_zero_point, 0, 255)
            dequantize_1 = dequantize(quantize, fc.logits_scale, fc.logits_zero_point, 0, 255)
            transpose = quantize.transpose(1, 2)
            dequantize_2 = dequantize(transpose, fc.logits_scale, fc.logits_zero_point, 0, 255)
            add = dequantize_1 + 1
            return (dequantize_2, add)
        """,
        stage=Stage.QUANTISED,
    )
    assert len(of_target(gm, quantize)) == 1


STAYS: dict[str, Any] = {
    "nothing": lambda y: y,
    "a number directly behind the quantiser": lambda y: y * 0.5,
    "a reflection": lambda y: F.pad(y, (1, 1), mode="reflect"),
    "a replication": lambda y: F.pad(y, (1, 1), mode="replicate"),
    "another padding": lambda y: F.pad(y, (0, 1), value=1.0),
    "another padding by name": lambda y: F.pad(y, (0, 1), mode="constant", value=-100.0),
    "a computation": lambda y: y.exp(),
    "a repetition": lambda y: y.repeat(1, 2, 1),
    "another dtype": lambda y: y.to(torch.float64),
    "a part of what was computed": lambda y: y.exp().unbind(0)[0],
}


@pytest.mark.parametrize("name", STAYS)
def test_near_misses(name: str) -> None:
    check_unchanged(dequantize_late, simulated(STAYS[name]), (X,), Stage.QUANTISED)


@pytest.mark.parametrize("move", ["transpose", "padding", "chunk", "roll", "getitem"])
def test_scales_per_channel_stay(move: str) -> None:
    gm = simulated(MOVES[move], TensorSpec(granularity=PerChannel(-1)))
    check_unchanged(dequantize_late, gm, (X,), Stage.QUANTISED)


FACTORS: dict[str, Any] = {
    "negative": lambda y: y.transpose(1, 2) * -0.5,
    "zero": lambda y: y.transpose(1, 2) * 0,
    "a tensor": lambda y: y.transpose(1, 2) * y.sum(),
    "a sum": lambda y: y.transpose(1, 2) + 0.5,
    "a quotient": lambda y: y.transpose(1, 2) / 2.0,
}


@pytest.mark.parametrize("name", FACTORS)
def test_other_factors_stay(name: str) -> None:
    original = simulated(FACTORS[name])
    gm = through(original, dequantize_late)
    assert "fc.logits_scale_scaled" not in render(gm)
    value: Any = gm.graph.output_node().args[0]
    assert value.args[0].target is dequantize
    assert value.args[0].args[0].target == "transpose"
    assert torch.equal(gm(X), original(X))


def test_constant_codes_stay() -> None:
    gm = fx.GraphModule({}, graph := fx.Graph())
    for name, value in (("codes", torch.arange(-6, 6, dtype=torch.int8).view(3, 4)), ("scale", torch.tensor(0.5))):
        gm.register_buffer(name, value)
    x = graph.placeholder("x")
    value_of = graph.call_function(dequantize, (graph.get_attr("codes"), graph.get_attr("scale"), None, -8, 7))
    moved = graph.call_method("transpose", (value_of, 0, 1))
    graph.output(graph.call_function(F.linear, (x, moved)))
    gm.recompile()
    check_unchanged(dequantize_late, gm, (torch.randn(2, 3),), Stage.QUANTISED)


def test_products_of_attention_become_int8() -> None:
    def attend(y: Tensor) -> Tensor:
        q, k, v = y.reshape(-1, 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        return F.softmax((q * 0.125) @ k.transpose(-2, -1), -1) @ v

    placement = Placement(linear=U8, probabilities=U8)
    prepared = fxquant.prepare(Moved(attend).eval(), QuantConfig(placement=placement))
    prepared(X)
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    assert len(of_target(int8, int8_matmul)) == 2
    torch.testing.assert_close(int8(X), fake(X), rtol=1e-4, atol=1e-5)
