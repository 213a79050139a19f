"""`fuse_layer_norm` puts a quantiser into the norm before it where nothing else reads the norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import LayerSpec, PerChannel, PerToken, QuantConfig, TensorSpec
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.ops import layer_norm_quantize
from fxquant.passes.fuse_layer_norm import fuse_layer_norm
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.lowered import lowered

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


class Normed(nn.Module):
    """A layer behind a norm, which others may read as well."""

    def __init__(self, residual: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc, self.residual = nn.LayerNorm(4, **options), nn.Linear(4, 4), residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z: Tensor = self.fc(y)
        return z + y if self.residual else z


def test_a_norm_gives_codes() -> None:
    with use_backend("aten"):
        gm = check_pass(
            fuse_layer_norm,
            lowered(Normed(eps=1e-6), X),
            (X,),
            before="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                layer_norm = F.layer_norm(check_input, (4,), norm.weight, norm.bias, 1e-06)
                quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255)
                int8_linear = int8_linear(quantize, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True)
                return int8_linear
            """,
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                layer_norm_quantize = layer_norm_quantize(check_input, norm.weight, norm.bias, 1e-06, fc.input_scale, \
fc.input_zero_point, 0, 255)
                int8_linear = int8_linear(layer_norm_quantize, fc.weight_int8, fc.scale, fc.bias_folded, None, None, \
torch.float32, True)
                return int8_linear
            """,
            stage=Stage.LOWERED,
        )
        assert gm(X[:0]).shape == (0, 5, 4)
    (node,) = [n for n in gm.graph.nodes if n.target is layer_norm_quantize]
    assert (node.meta["val"].dtype, tuple(node.meta["val"].shape)) == (torch.int8, (2, 5, 4))
    assert node.meta["nn_module_stack"]


def test_the_cast_of_a_bfloat16_model_goes_along() -> None:
    x = X.bfloat16()
    with use_backend("aten"):
        check_pass(
            fuse_layer_norm,
            lowered(Normed().bfloat16(), x),
            (x,),
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                layer_norm_quantize = layer_norm_quantize(check_input, norm.weight_float32, norm.bias_float32, 1e-05, \
fc.input_scale, fc.input_zero_point, 0, 255)
                int8_linear = int8_linear(layer_norm_quantize, fc.weight_int8, fc.scale, fc.bias_folded, None, None, \
torch.bfloat16, True)
                return int8_linear
            """,
            stage=Stage.LOWERED,
        )


def test_a_norm_without_parameters_and_noise() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return F.linear(F.layer_norm(x, (4,)), self.w)

    gm = lowered(module_of(forward, w=torch.randn(4, 4)), X, noise=4)
    with use_backend("aten"):
        check_pass(
            fuse_layer_norm,
            gm,
            (X,),
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                layer_norm_quantize = layer_norm_quantize(check_input, None, None, 1e-05, linear.input_scale, \
linear.input_zero_point, 0, 255, linear.input_noise)
                int8_linear = int8_linear(layer_norm_quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, \
None, torch.float32, True)
                return int8_linear
            """,
            stage=Stage.LOWERED,
        )


def test_a_norm_with_other_readers_stays() -> None:
    check_unchanged(fuse_layer_norm, lowered(Normed(residual=True), X), (X,), Stage.LOWERED)


class Twice(nn.Module):
    """Two layers behind one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.a(y) + self.b(y)


def test_a_norm_that_is_quantised_twice_stays() -> None:
    config = QuantConfig().set_module_name("b", LayerSpec(activation=TensorSpec(4)))
    check_unchanged(fuse_layer_norm, lowered(Twice(), X, config), (X,), Stage.LOWERED)


def test_layers_that_share_their_codes_share_the_norm() -> None:
    gm = fuse_layer_norm(lowered(Twice(), X)).graph_module
    (norm,) = [n for n in gm.graph.nodes if n.target is layer_norm_quantize]
    assert len(norm.users) == 2


def test_scales_per_channel_stay() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))
    check_unchanged(fuse_layer_norm, lowered(Normed(), X, config), (X,), Stage.LOWERED)


def test_a_norm_over_several_axes_stays() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (5, 4)), self.w)

    check_unchanged(fuse_layer_norm, lowered(module_of(forward, w=torch.randn(4, 4)), X), (X,), Stage.LOWERED)


def test_a_norm_in_float64_stays() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x.double(), (4,)).float(), self.w)

    check_unchanged(fuse_layer_norm, lowered(module_of(forward, w=torch.randn(4, 4)), X), (X,), Stage.LOWERED)


def test_noise_of_patches_stays() -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.LayerNorm(6, elementwise_affine=False), nn.Conv2d(3, 5, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x))

    x = torch.randn(2, 3, 4, 6)
    gm = lowered(Columns(), x, noise=12)
    assert any(len(n.args) == 7 for n in gm.graph.nodes), "expected noise at the quantiser"
    check_unchanged(fuse_layer_norm, gm, (x,), Stage.LOWERED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_of_the_device_gives_the_same(dtype: torch.dtype) -> None:
    x = torch.randn(3, 7, 4).to(dtype)
    original = lowered(Normed().to(dtype), x)
    expected = original(x)
    found = fuse_layer_norm(original).graph_module(x)
    assert (expected - found).float().norm() <= 0.01 * expected.float().norm()


PER_TOKEN = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerToken())))


def test_a_norm_gives_codes_with_a_scale_per_token() -> None:
    with use_backend("aten"):
        check_pass(
            fuse_layer_norm,
            lowered(Normed(eps=1e-6), X, PER_TOKEN),
            (X,),
            after="""
                (x)
                check_input = check_input(x, (None, None, 4), 'x')
                layer_norm_quantize_tokens = layer_norm_quantize_tokens(check_input, norm.weight, norm.bias, 1e-06, False, \
0, 255)
                getitem = layer_norm_quantize_tokens[0]
                getitem_1 = layer_norm_quantize_tokens[1]
                getitem_2 = layer_norm_quantize_tokens[2]
                int8_linear = int8_linear(getitem, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True, \
getitem_1, getitem_2)
                return int8_linear
            """,
            stage=Stage.LOWERED,
        )
        check_unchanged(fuse_layer_norm, lowered(Normed(residual=True), X, PER_TOKEN), (X,), stage=Stage.LOWERED)
