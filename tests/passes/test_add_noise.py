"""`add_noise` puts the noise of each operand into the graph, and its response into the bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import LayerSpec, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.passes.add_noise import add_noise
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.noisy import TOKENS, prepared

IMAGES = torch.randn(2, 3, 7, 6)


def test_a_linear_layer() -> None:
    gm = check_pass(
        add_noise,
        prepared(nn.Linear(4, 6)),
        (TOKENS,),
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
            add_noise = add_noise(input_input, linear.input_noise)
            linear_input = observers.linear_input(add_noise)
            linear_weight = observers.linear_weight(weight)
            denoise_bias = denoise_bias(bias, linear.input_noise, linear_weight)
            linear = F.linear(linear_input, linear_weight, denoise_bias)
            return linear
        """,
        stage=Stage.QUANTISED,
        tolerance=1e-6,
    )
    assert get_tensor(gm, "linear.input_noise").shape == (4,)


def test_a_layer_without_a_bias_gets_one() -> None:
    check_pass(
        add_noise,
        prepared(nn.Linear(4, 6, bias=False)),
        (TOKENS,),
        after="""
            (input)
            input_input = observers.input_input(input)
            add_noise = add_noise(input_input, linear.input_noise)
            linear_input = observers.linear_input(add_noise)
            linear_weight = observers.linear_weight(weight)
            denoise_bias = denoise_bias(None, linear.input_noise, linear_weight)
            linear = F.linear(linear_input, linear_weight, denoise_bias)
            return linear
        """,
        stage=Stage.QUANTISED,
        tolerance=1e-6,
    )


def test_a_patch_convolution_reads_the_same_noise_in_each_patch() -> None:
    gm = check_pass(
        add_noise,
        prepared(nn.Conv2d(3, 5, (3, 2), (3, 2)), IMAGES, noise=18),
        (IMAGES,),
        after="""
            (input)
            input_input = observers.input_input(input)
            add_noise = add_noise(input_input, conv2d.input_noise)
            conv2d_input = observers.conv2d_input(add_noise)
            conv2d_weight = observers.conv2d_weight(weight)
            denoise_bias = denoise_bias(bias, conv2d.input_noise, conv2d_weight)
            conv2d = F.conv2d(conv2d_input, conv2d_weight, denoise_bias, (3, 2), (0, 0), (1, 1))
            return conv2d
        """,
        stage=Stage.QUANTISED,
        tolerance=1e-6,
    )
    noise = get_tensor(gm, "conv2d.input_noise")
    assert noise.shape == (3, 3, 2)
    (node,) = [n for n in gm.graph.nodes if n.name == "add_noise"]
    noisy: Tensor = node.target(IMAGES, noise)
    patches, clean = (F.unfold(t, (3, 2), stride=(3, 2)) for t in (noisy, IMAGES))
    torch.testing.assert_close(patches - clean, noise.reshape(1, 18, 1).expand_as(patches))


def _two_layers(self: Any, x: Tensor) -> Tensor:
    y = F.layer_norm(x, (4,))
    return F.linear(y, self.one) + F.linear(y, self.two) * y


def test_layers_that_share_an_input_share_the_sum() -> None:
    check_pass(
        add_noise,
        prepared(module_of(_two_layers, one=torch.randn(4, 4), two=torch.randn(4, 4))),
        (TOKENS,),
        after="""
            (x)
            input_x = observers.input_x(x)
            layer_norm = F.layer_norm(input_x, (4,))
            add_noise = add_noise(layer_norm, linear.input_noise)
            linear_input = observers.linear_input(add_noise)
            linear_weight = observers.linear_weight(one)
            denoise_bias = denoise_bias(None, linear.input_noise, linear_weight)
            linear = F.linear(linear_input, linear_weight, denoise_bias)
            linear_1_weight = observers.linear_1_weight(two)
            denoise_bias_1 = denoise_bias(None, linear.input_noise, linear_1_weight)
            linear_1 = F.linear(linear_input, linear_1_weight, denoise_bias_1)
            mul = linear_1 * layer_norm
            add = linear + mul
            return add
        """,
        stage=Stage.QUANTISED,
        tolerance=1e-6,
    )


def _run_time_bias(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.weight, x.mean((0, 1)))


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (nn.Sequential(nn.GELU(), nn.Linear(4, 6)), QuantConfig(LayerSpec(gelu=TwinGELU()))),
        (nn.Sequential(nn.GELU(), nn.Linear(4, 6)), None),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6)), None),
        (module_of(_run_time_bias, weight=torch.randn(4, 4)), None),
        (nn.Linear(4, 6), QuantConfig(LayerSpec(weight=None))),
    ],
    ids=["twin", "gelu", "norm", "a bias computed at run time", "a float weight"],
)
def test_the_response_is_taken_off_again(module: nn.Module, config: QuantConfig | None) -> None:
    """Whatever the input comes from, the output is that without noise as long as nothing is rounded."""
    gm = prepared(module, config=config)
    changed = add_noise(prepared(module, config=config)).graph_module
    assert "denoise_bias" in changed.code
    with torch.no_grad():
        torch.testing.assert_close(changed(TOKENS), gm(TOKENS), rtol=1e-4, atol=1e-5)


def test_in_a_bfloat16_model_the_sum_is_float32() -> None:
    gm = add_noise(prepared(nn.Linear(4, 6).bfloat16(), TOKENS.bfloat16())).graph_module
    (node,) = [n for n in gm.graph.nodes if n.name == "add_noise"]
    noise = get_tensor(gm, "linear.input_noise")
    assert noise.dtype is torch.float32
    assert node.target(TOKENS.bfloat16(), noise).dtype is torch.float32


NEAR_MISSES: dict[str, tuple[nn.Module, QuantConfig | None]] = {
    "no noise": (nn.Linear(4, 6), None),
    "a float input": (nn.Linear(4, 6), QuantConfig(LayerSpec(activation=None))),
    "nothing quantised": (nn.Linear(4, 6), QuantConfig(LayerSpec(weight=None, activation=None))),
    "an observed product of two activations": (
        module_of(lambda self, x: x @ x.mT),
        QuantConfig(LayerSpec(activation=TensorSpec()), attention=True),
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_leaves_what_has_no_noise(name: str) -> None:
    module, config = NEAR_MISSES[name]
    check_unchanged(add_noise, prepared(module, config=config, noise=0), (TOKENS,), Stage.QUANTISED)
