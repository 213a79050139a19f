"""`lower_matmul` computes products of two activations on codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fxquant
from fxquant import LayerSpec, PerChannel, PerHead, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.graph.attributes import get_tensor
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.lowering.obstacles import obstacle
from fxquant.ops import int8_matmul
from fxquant.passes.lower_matmul import lower_matmul
from tests.support.check_pass import check_pass, check_unchanged, module_of, render

torch.manual_seed(0)
QKV = tuple(torch.randn(2, 3, 5, 4) for _ in range(3))
SIGNED = TensorSpec(signed=True, symmetric=True)
HEADS = TensorSpec(granularity=PerHead())


def simulated(forward: Any, layer: LayerSpec | None = None, inputs: Sequence[Tensor] = QKV) -> fx.GraphModule:
    config = QuantConfig(layer or LayerSpec(), attention=True)
    prepared = fxquant.prepare(module_of(forward), config, tuple(inputs))
    prepared(*inputs)
    return fxquant.convert(prepared, "fake")


def _scores(self: Any, q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT


def _context(self: Any, scores: Tensor, v: Tensor) -> Tensor:
    return F.softmax(scores, -1) @ v


def _fused(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


SV = (torch.randn(2, 3, 5, 5), QKV[2])


def test_folds_scales_and_keeps_zero_points() -> None:
    gm = check_pass(
        lower_matmul,
        simulated(_scores, inputs=QKV[:2]),
        QKV[:2],
        before="""
            (q, k)
            check_input = check_input(q, (None, 3, None, 4), 'q')
            quantize = quantize(check_input, matmul.matmul.input_scale, matmul.matmul.input_zero_point, 0, 255)
            dequantize = dequantize(quantize, matmul.matmul.input_scale, matmul.matmul.input_zero_point, 0, 255)
            check_input_1 = check_input(k, (None, 3, None, 4), 'k')
            mT = check_input_1.mT
            quantize_1 = quantize(mT, matmul.matmul.other_scale, matmul.matmul.other_zero_point, 0, 255)
            dequantize_1 = dequantize(quantize_1, matmul.matmul.other_scale, matmul.matmul.other_zero_point, 0, 255)
            matmul = torch.matmul(dequantize, dequantize_1)
            return matmul
        """,
        after="""
            (q, k)
            check_input = check_input(q, (None, 3, None, 4), 'q')
            quantize = quantize(check_input, matmul.matmul.input_scale, matmul.matmul.input_zero_point, 0, 255)
            check_input_1 = check_input(k, (None, 3, None, 4), 'k')
            mT = check_input_1.mT
            quantize_1 = quantize(mT, matmul.matmul.other_scale, matmul.matmul.other_zero_point, 0, 255)
            int8_matmul = int8_matmul(quantize, quantize_1, matmul.matmul.scale, matmul.matmul.a_zero_point, \
matmul.matmul.b_zero_point, torch.float32)
            return int8_matmul
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )
    assert get_tensor(gm, "matmul.matmul.scale").shape == ()
    stored = get_tensor(gm, "matmul.matmul.input_zero_point") - 128
    assert torch.equal(get_tensor(gm, "matmul.matmul.a_zero_point"), stored)
    (product,) = [n for n in gm.graph.nodes if n.target is int8_matmul]
    assert record_of(product) is not None


def test_twin_probabilities_have_two_scales() -> None:
    check_pass(
        lower_matmul,
        simulated(_context, LayerSpec(softmax=TwinSoftmax(6), value=TensorSpec(4)), SV),
        SV,
        after="""
            (scores, v)
            check_input = check_input(scores, (None, 3, None, 5), 'scores')
            check_input_1 = check_input(v, (None, 3, 5, None), 'v')
            quantize = quantize(check_input_1, matmul.pv.value_scale, matmul.pv.value_zero_point, 0, 15)
            softmax = F.softmax(check_input, -1)
            quantize_twin = quantize_twin(softmax, matmul.pv.probs_high, matmul.pv.probs_low, matmul.pv.probs_split, -31, 31)
            int8_matmul_twin = int8_matmul_twin(quantize_twin, quantize, matmul.pv.high, matmul.pv.low, \
matmul.pv.b_zero_point, torch.float32)
            return int8_matmul_twin
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,
    )


def test_zero_points_that_are_zero_as_stored_are_left_out() -> None:
    # Probabilities in 4 bits are affine with the zero point 0; in 8 bits codes are stored minus 128.
    layer = LayerSpec(softmax=TensorSpec(4), value=SIGNED)
    gm = lower_matmul(simulated(_context, layer, SV)).graph_module
    assert "matmul.pv.scale, None, None, torch.float32)" in render(gm)
    eight = lower_matmul(simulated(_context, LayerSpec(softmax=TensorSpec(8), value=SIGNED), SV)).graph_module
    assert "matmul.pv.scale, matmul.pv.a_zero_point, None, torch.float32)" in render(eight)


def test_the_products_take_over_the_cast_to_the_model_dtype() -> None:
    def attend(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.softmax(q @ k.mT, -1) @ v

    inputs = tuple(x.bfloat16() for x in QKV)
    check_pass(
        lower_matmul,
        simulated(attend, LayerSpec(activation=SIGNED, softmax=TwinSoftmax()), inputs),
        inputs,
        after="""
            (q, k, v)
            check_input = check_input(q, (None, 3, None, 4), 'q')
            quantize = quantize(check_input, matmul.qk.query_scale, None, -128, 127)
            check_input_1 = check_input(k, (None, 3, 5, 4), 'k')
            check_input_2 = check_input(v, (None, 3, 5, None), 'v')
            quantize_1 = quantize(check_input_2, matmul_1.pv.value_scale, None, -128, 127)
            mT = check_input_1.mT
            quantize_2 = quantize(mT, matmul.qk.key_scale, None, -128, 127)
            int8_matmul = int8_matmul(quantize, quantize_2, matmul.qk.scale, None, None, torch.bfloat16)
            softmax = F.softmax(int8_matmul, -1)
            quantize_twin = quantize_twin(softmax, matmul_1.pv.probs_high, matmul_1.pv.probs_low, matmul_1.pv.probs_split, \
-127, 127)
            int8_matmul_twin = int8_matmul_twin(quantize_twin, quantize_1, matmul_1.pv.high, matmul_1.pv.low, None, \
torch.bfloat16)
            return int8_matmul_twin
        """,
        stage=Stage.LOWERED,
        tolerance=1e-2,
    )


def test_a_second_cast_does_not_undo_the_rounding_of_the_first() -> None:
    def forward(self: Any, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).to(torch.float32)

    inputs = tuple(x.bfloat16() for x in QKV[:2])
    output = lower_matmul(simulated(forward, inputs=inputs)).graph_module(*inputs)
    assert output.dtype is torch.float32
    assert torch.equal(output, output.bfloat16().float())


def test_a_cast_that_others_do_not_want_stays() -> None:
    def forward(self: Any, q: Tensor, k: Tensor) -> Any:
        y = q @ k.mT
        return y.to(torch.float64), y

    gm = lower_matmul(simulated(forward, inputs=QKV[:2])).graph_module
    cast, plain = gm(*QKV[:2])
    assert torch.equal(cast, plain.double())
    assert plain.dtype is torch.float32


@pytest.mark.parametrize("softmax", [HEADS, TwinSoftmax()])
def test_scales_per_head_broadcast_over_the_batch(softmax: Any) -> None:
    layer = LayerSpec(query=HEADS, key=HEADS, softmax=softmax, value=HEADS)
    gm = simulated(_fused, layer)
    lowered = lower_matmul(gm).graph_module
    names = [n for n, _ in lowered.named_buffers() if n.endswith((".scale", ".high", ".low", "a_zero_point"))]
    assert len(names) >= 4
    assert {get_tensor(lowered, n).shape for n in names} == {(3, 1, 1)}
    torch.testing.assert_close(lowered(*QKV), gm(*QKV))
    assert fxquant.report(lowered).coverage == 1


def test_a_scale_per_head_meets_one_for_all() -> None:
    gm = simulated(_fused, LayerSpec(query=HEADS, key=SIGNED, softmax=TensorSpec(4), value=HEADS))
    torch.testing.assert_close(lower_matmul(gm).graph_module(*QKV), gm(*QKV))


@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 4), (4, 6)), ((3, 5, 4), (3, 4, 6)), ((2, 1, 5, 4), (3, 4, 6)), ((1, 4), (2, 3, 4, 1)), ((2, 5, 4), (4, 6))],
)
def test_leading_axes_broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    inputs = (torch.randn(left), torch.randn(right))
    gm = simulated(lambda self, a, b: torch.matmul(a, b), inputs=inputs)
    lowered = lower_matmul(gm).graph_module
    assert fxquant.report(lowered).coverage == 1
    torch.testing.assert_close(lowered(*inputs), gm(*inputs))


def test_what_both_sides_are_is_one_value() -> None:
    gm = simulated(lambda self, x: x @ x, inputs=[torch.randn(3, 4, 4)])
    x = torch.randn(3, 4, 4)
    torch.testing.assert_close(lower_matmul(gm).graph_module(x), gm(x))


def _learned_queries(self: Any, k: Tensor) -> Tensor:
    return F.softmax(self.queries @ k.mT, -1)


def test_a_learned_operand_is_stored_as_codes() -> None:
    x = torch.randn(2, 5, 4)
    module = module_of(_learned_queries, queries=torch.randn(3, 4))
    prepared = fxquant.prepare(module, QuantConfig(LayerSpec(query=SIGNED), attention=True, decoder=True), x)
    prepared(x)
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared, strict=True)
    assert "int8_matmul(matmul.qk.query_codes, quantize, matmul.qk.scale" in render(int8)
    torch.testing.assert_close(int8(x), fake(x))
    (before,), (after,) = fxquant.report(fake), fxquant.report(int8)
    assert [o.scale for o in after.operands] == pytest.approx([o.scale for o in before.operands], rel=1e-5)


def _vector(self: Any, q: Tensor, k: Tensor) -> Tensor:
    return q @ k[0, 0, 0]


def _gelu_on_the_right(self: Any, q: Tensor, k: Tensor) -> Tensor:
    return q @ F.gelu(k).mT


def _norm_on_the_left(self: Any, q: Tensor, k: Tensor) -> Tensor:
    return F.layer_norm(q, (4,)) @ k.mT


ROWS, COLUMNS = TensorSpec(granularity=PerChannel(2)), TensorSpec(granularity=PerChannel(3))
NO_FORM = "a product of activations with a scale per row or column has no int8 form"
SUMMED = "a scale along the summed axis does not factor out of the product"
NEAR_MISSES = {
    "a float left operand": (
        _norm_on_the_left,
        LayerSpec(activation=None, norm=TensorSpec()),
        "right operand is float",
    ),
    "a float right operand": (
        _gelu_on_the_right,
        LayerSpec(activation=None, gelu=TensorSpec()),
        "left operand is float",
    ),
    "a vector": (_vector, LayerSpec(), "a product with a vector has no int8 form"),
    "twin on the right": (
        _gelu_on_the_right,
        LayerSpec(gelu=TwinGELU()),
        "a twin-uniform right operand has no int8 form",
    ),
    "a scale per row": (_scores, LayerSpec(activation=ROWS), NO_FORM),
    "a scale per summed channel": (_scores, LayerSpec(activation=COLUMNS), SUMMED),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NEAR_MISSES)
def test_leaves_what_has_no_integer_form(name: str, dtype: torch.dtype) -> None:
    forward, layer, reason = NEAR_MISSES[name]
    inputs = tuple(x.to(dtype) for x in QKV[:2])
    gm = simulated(forward, layer, inputs)
    check_unchanged(lower_matmul, gm, inputs, Stage.LOWERED)
    (node,) = [n for n in gm.graph.nodes if n.target is torch.matmul]
    assert obstacle(node) == (f"simulated: the {reason}" if reason.endswith("is float") else f"simulated: {reason}")


def test_leaves_twin_probabilities_as_published() -> None:
    gm = simulated(_context, LayerSpec(softmax=TwinSoftmax(published=True)), SV)
    check_unchanged(lower_matmul, gm, SV, Stage.LOWERED)
    (node,) = [n for n in gm.graph.nodes if n.target is torch.matmul]
    reason = "simulated: the left operand is twin-uniform as published, which has no int8 form"
    assert obstacle(node) == reason


def test_the_right_side_can_have_a_scale_of_its_own_kind() -> None:
    # Rows of the left and summed rows of the right: each side names its own axes.
    for key, reason in ((ROWS, SUMMED), (COLUMNS, NO_FORM)):
        gm = simulated(_fused, LayerSpec(key=key))
        reasons = [obstacle(n) for n in gm.graph.nodes if n.target is torch.matmul]
        assert reasons == [f"simulated: {reason}", None]
    prepared = fxquant.prepare(module_of(_fused), QuantConfig(LayerSpec(key=ROWS), attention=True), QKV)
    prepared(*QKV)
    assert [r.int8 for r in fxquant.report(fxquant.convert(prepared))] == [False, True]


def test_leaves_a_product_that_is_not_annotated() -> None:
    gm = simulated(_scores, inputs=QKV[:2])
    for node in gm.graph.nodes:
        node.meta.pop("fxquant", None)
    check_unchanged(lower_matmul, gm, QKV[:2], Stage.LOWERED)
