"""`correct_bias` adds what calibration measured to the biases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import LayerSpec, QuantConfig
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.observers.base import Observer
from fxquant.passes.add_noise import add_noise
from fxquant.passes.correct_bias import correct_bias
from tests.support.check_pass import check_pass, check_unchanged, module_of, through
from tests.support.models import Shared
from tests.support.noisy import TOKENS, prepared

IMAGES = torch.randn(2, 3, 6, 6)


def shifts(gm: nn.Module) -> list[Tensor]:
    return [m.bias_shift for m in gm.modules() if isinstance(m, Observer) and m.bias_shift.numel()]


def test_a_linear_layer() -> None:
    original = prepared(nn.Linear(4, 6), noise=0, shift=6)
    gm = check_pass(
        correct_bias,
        original,
        (),
        before="""
            (input)
            input_input = observers.input_input(input)
            linear_input = observers.linear_input(input_input)
            linear_weight = observers.linear_weight(weight)
            linear = F.linear(linear_input, linear_weight, bias)
            return linear
        """,
        after="""
            (input)
            input_input = observers.input_input(input)
            linear_input = observers.linear_input(input_input)
            linear_weight = observers.linear_weight(weight)
            linear = F.linear(linear_input, linear_weight, linear.bias_corrected)
            return linear
        """,
        stage=Stage.QUANTISED,
    )
    (shift,) = shifts(gm)
    assert torch.equal(get_tensor(gm, "linear.bias_corrected"), get_tensor(original, "bias") + shift)
    with torch.no_grad():
        torch.testing.assert_close(gm(TOKENS), original(TOKENS) + shift, rtol=1e-5, atol=1e-6)


def test_a_layer_without_a_bias_gets_one() -> None:
    gm = check_pass(
        correct_bias,
        prepared(nn.Linear(4, 6, bias=False), noise=0, shift=6),
        (),
        after="""
            (input)
            input_input = observers.input_input(input)
            linear_input = observers.linear_input(input_input)
            linear_weight = observers.linear_weight(weight)
            linear = F.linear(linear_input, linear_weight, linear.bias_corrected)
            return linear
        """,
        stage=Stage.QUANTISED,
    )
    assert torch.equal(get_tensor(gm, "linear.bias_corrected"), shifts(gm)[0])


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution(bias: bool) -> None:
    original = prepared(nn.Conv2d(3, 5, 2, 2, bias=bias), IMAGES, noise=0, shift=5)
    gm = check_pass(
        correct_bias,
        original,
        (),
        after="""
            (input)
            input_input = observers.input_input(input)
            conv2d_input = observers.conv2d_input(input_input)
            conv2d_weight = observers.conv2d_weight(weight)
            conv2d = F.conv2d(conv2d_input, conv2d_weight, conv2d.bias_corrected, (2, 2), (0, 0), (1, 1))
            return conv2d
        """,
        stage=Stage.QUANTISED,
    )
    with torch.no_grad():
        difference = gm(IMAGES) - original(IMAGES)
    torch.testing.assert_close(difference, shifts(gm)[0].reshape(1, 5, 1, 1).expand_as(difference))


def test_a_bias_that_is_used_twice_is_corrected_for_each_use() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    gm = correct_bias(prepared(Shared(), x, noise=0, shift=8)).graph_module
    first, second = (get_tensor(gm, name) for name in ("layer.bias_corrected", "layer_2.bias_corrected"))
    # The weight of a recipe that searches nothing has one observer: both uses move alike.
    assert torch.equal(first, second)
    assert torch.equal(first, get_tensor(gm, "layer.bias") + shifts(gm)[0])


def test_the_corrected_bias_of_a_bfloat16_model_is_float32() -> None:
    original = prepared(nn.Linear(4, 6).bfloat16(), TOKENS.bfloat16(), noise=0, shift=6)
    gm = correct_bias(original).graph_module
    corrected = get_tensor(gm, "linear.bias_corrected")
    assert corrected.dtype is torch.float32
    assert torch.equal(corrected, get_tensor(gm, "bias").float() + shifts(gm)[0])


def test_the_noise_comes_off_the_corrected_bias() -> None:
    gm = through(prepared(nn.Linear(4, 6), shift=6), correct_bias, add_noise)
    (node,) = [n for n in gm.graph.nodes if n.name == "denoise_bias"]
    assert str(node.args[0].target) == "linear.bias_corrected"


def _run_time_bias(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight, x.mean((0, 1)))


@pytest.mark.parametrize(
    ("module", "config", "shift"),
    [
        (nn.Linear(4, 6), None, 0),
        (nn.Linear(4, 6), QuantConfig(LayerSpec(weight=None)), 6),
        (module_of(_run_time_bias, weight=torch.randn(4, 4)), None, 4),
        (nn.ReLU(), None, 0),
    ],
    ids=["no shift", "a float weight", "a bias computed at run time", "no product"],
)
def test_leaves_what_has_no_shift(module: nn.Module, config: QuantConfig | None, shift: int) -> None:
    check_unchanged(correct_bias, prepared(module, TOKENS, config, 0, shift), (TOKENS,), Stage.QUANTISED)
