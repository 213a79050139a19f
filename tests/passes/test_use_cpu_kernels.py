"""`use_cpu_kernels` calls the kernels for what they take, with weights packed, and leaves the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import LayerSpec, PerChannel, PerToken, QuantConfig, TensorSpec, TwinGELU
from fxquant.graph.attributes import get_tensor
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.inspection.report import report
from fxquant.passes.fuse_attention import fuse_attention
from fxquant.passes.fuse_gelu import fuse_gelu
from fxquant.passes.fuse_layer_norm import fuse_layer_norm
from fxquant.passes.fuse_residual import fuse_residual
from fxquant.passes.use_cpu_kernels import use_cpu_kernels
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.lowered import lowered
from tests.support.needs_cpu_kernels import needs_kernels

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
TWIN = QuantConfig(LayerSpec(gelu=TwinGELU()))
FUSE = (fuse_attention, fuse_layer_norm, fuse_gelu, fuse_residual)


def fused(module: nn.Module, x: Tensor = X, config: QuantConfig | None = None, noise: int = 0) -> fx.GraphModule:
    return lowered(module, x, config, *FUSE, noise=noise)


class MLP(nn.Module):
    """An MLP and its residual."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


@needs_kernels
def test_an_mlp() -> None:
    original = fused(MLP())
    gm = check_pass(
        use_cpu_kernels,
        original,
        (X,),
        before="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            layer_norm_quantize = layer_norm_quantize(check_input, norm.weight, norm.bias, 1e-05, fc1.input_scale, \
fc1.input_zero_point, 0, 255)
            int8_linear_gelu_quantize = int8_linear_gelu_quantize(layer_norm_quantize, fc1.weight_int8, fc1.scale, \
fc1.bias_folded, 'none', torch.float32, True, fc2.input_scale, fc2.input_zero_point, 0, 255)
            int8_linear_add = int8_linear_add(int8_linear_gelu_quantize, fc2.weight_int8, fc2.scale, fc2.bias_folded, \
check_input, torch.float32, True)
            return int8_linear_add
        """,
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            cpu_layer_norm_quantize.default = cpu_layer_norm_quantize.default(check_input, norm.weight, norm.bias, 1e-05, \
fc1.input_scale, fc1.input_zero_point, 0, 255, None)
            cpu_gemm.default = cpu_gemm.default(cpu_layer_norm_quantize.default, fc1.weight_packed, fc1.compensation, \
fc1.scale, None, fc1.bias_folded, fc1.gelu_table, None, fc2.input_scale, fc2.input_zero_point, None, None, None, 0, 255, False)
            cpu_gemm.default_1 = cpu_gemm.default(cpu_gemm.default, fc2.weight_packed, fc2.compensation, fc2.scale, None, \
fc2.bias_folded, None, check_input, None, None, None, None, None, 0, 0, False)
            return cpu_gemm.default_1
        """,
        stage=Stage.LOWERED,
    )
    labels = [record_of(n).label for n in gm.graph.nodes if n.target is torch.ops.fxquant.cpu_gemm.default]  # type: ignore[union-attr]
    assert labels == ["fc1", "fc2"]
    assert get_tensor(gm, "fc1.weight_packed").numel() == 4 * 32, "20 outputs are 2 registers"
    for batch in (0, 1, 3):
        x = torch.randn(batch, 5, 4)
        assert torch.equal(gm(x), original(x))


@needs_kernels
def test_twin_uniform_codes_in_bfloat16() -> None:
    x = X.bfloat16()
    check_pass(
        use_cpu_kernels,
        fused(nn.Sequential(nn.Linear(4, 20), nn.GELU("tanh"), nn.Linear(20, 8)).bfloat16(), x, TWIN),
        (x,),
        after="""
            (input)
            check_input = check_input(input, (None, None, 4), 'input')
            cpu_quantize.default = cpu_quantize.default(check_input, 0.input_scale, 0.input_zero_point, None, None, \
0, 255, None)
            cpu_gemm.default = cpu_gemm.default(cpu_quantize.default, 0.weight_packed, 0.compensation, 0.scale, None, \
0.bias_folded, 0.gelu_table, None, 2.input_high, None, 2.input_low, 2.input_split, None, -127, 127, False)
            cpu_gemm.default_1 = cpu_gemm.default(cpu_gemm.default, 2.weight_packed, 2.compensation, 2.scale_high, \
2.scale_low, 2.bias_folded, None, None, None, None, None, None, None, 0, 0, True)
            return cpu_gemm.default_1
        """,
        stage=Stage.LOWERED,
    )


class Attention(nn.Module):
    """Attention with a bias, which the model holds in its own dtype."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj, self.width = nn.Linear(4, 6 * width), nn.Linear(2 * width, 4), width
        self.bias = nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(-1, 5, 3, 2, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.softmax((q * 0.25) @ k.transpose(-2, -1) + self.bias, -1) @ v
        return self.proj(y.transpose(1, 2).reshape(-1, 5, 2 * self.width))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    bias = "bias" if dtype is torch.float32 else "bias_float32"
    check_pass(
        use_cpu_kernels,
        fused(Attention().to(dtype), x),
        (x,),
        after=f"""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            cpu_quantize.default = cpu_quantize.default(check_input, qkv.input_scale, qkv.input_zero_point, None, None, \
0, 255, None)
            cpu_gemm.default = cpu_gemm.default(cpu_quantize.default, qkv.weight_packed, qkv.compensation, qkv.scale, None, \
qkv.bias_folded, None, None, None, None, None, None, None, 0, 0, {dtype is torch.bfloat16})
            reshape = cpu_gemm.default.reshape(-1, 5, 3, 2, 16)
            permute = reshape.permute(2, 0, 3, 1, 4)
            unbind = permute.unbind(0)
            getitem = unbind[0]
            getitem_1 = unbind[1]
            getitem_2 = unbind[2]
            cpu_attention.default = cpu_attention.default(getitem, getitem_1, getitem_2, 0.25, {bias}, None, proj.input_scale, \
proj.input_zero_point, 0, 255, None)
            cpu_gemm.default_1 = cpu_gemm.default(cpu_attention.default, proj.weight_packed, proj.compensation, proj.scale, \
None, proj.bias_folded, None, None, None, None, None, None, None, 0, 0, {dtype is torch.bfloat16})
            return cpu_gemm.default_1
        """,
        stage=Stage.LOWERED,
    )


def _targets(gm: fx.GraphModule) -> set[str]:
    return {str(n.target) for n in gm.graph.nodes if str(n.target).startswith("fxquant.")}


@needs_kernels
def test_noise_is_handed_over() -> None:
    gm = fused(Attention(2), noise=4)
    expected = gm(X)
    found = use_cpu_kernels(gm).graph_module
    noisy = [str(n.args[-1].target) for n in found.graph.nodes if "quantize" in str(n.target)]
    assert noisy == ["qkv.input_noise", "proj.input_noise"]
    assert torch.equal(found(X), expected)


AFFINE = QuantConfig(LayerSpec(weight=TensorSpec(granularity=PerChannel(0))))
CHANNELS = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))


class Columns(nn.Module):
    """A convolution, whose input takes the noise of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@needs_kernels
def test_an_affine_weight_stays() -> None:
    found = use_cpu_kernels(fused(nn.Linear(4, 8), X, AFFINE))
    assert found.modified, "the quantiser is replaced"
    assert any(n.name == "int8_linear" for n in found.graph_module.graph.nodes)


@needs_kernels
def test_what_the_kernels_do_not_take_stays() -> None:
    half, image = X.half(), torch.randn(2, 3, 4, 4)
    check_unchanged(use_cpu_kernels, fused(nn.Linear(4, 8).half(), half), (half,), Stage.LOWERED)
    check_unchanged(use_cpu_kernels, fused(nn.Linear(4, 8), X, CHANNELS), (X,), Stage.LOWERED)
    odd = torch.randn(2, 5, 6).half()
    check_unchanged(use_cpu_kernels, fused(nn.Linear(6, 8).half(), odd), (odd,), Stage.LOWERED)
    noisy = use_cpu_kernels(fused(Columns(), image, noise=12)).graph_module
    assert _targets(noisy) == {"fxquant.cpu_gemm.default"}, "the noise of patches is none of channels"


@needs_kernels
def test_a_width_that_is_no_multiple_of_four_keeps_its_product() -> None:
    x = torch.randn(2, 5, 6)
    gm = fused(nn.Linear(6, 8), x)
    expected = gm(x)
    found = use_cpu_kernels(gm).graph_module
    assert _targets(found) == {"fxquant.cpu_quantize.default"}
    assert torch.equal(found(x), expected)


@needs_kernels
def test_a_head_width_that_is_no_multiple_of_sixteen_keeps_its_attention() -> None:
    found = use_cpu_kernels(fused(Attention(12))).graph_module
    assert "fxquant.cpu_attention.default" not in _targets(found)
    assert any(n.name == "attention_quantize" for n in found.graph.nodes)


def test_a_simulated_product_stays() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.w))

    config = QuantConfig(LayerSpec(activation=None))
    gm = fused(module_of(forward, w=torch.randn(4, 4)), X, config)
    check_unchanged(use_cpu_kernels, gm, (X,), Stage.LOWERED)


@needs_kernels
def test_scales_of_tokens_and_the_gelu_before_them() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerToken())))
    gm = check_pass(
        use_cpu_kernels,
        fused(MLP(), config=config),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, 4), 'x')
            cpu_layer_norm_quantize_tokens.default = cpu_layer_norm_quantize_tokens.default(check_input, norm.weight, \
norm.bias, 1e-05, False, 0, 255)
            getitem = cpu_layer_norm_quantize_tokens.default[0]
            getitem_1 = cpu_layer_norm_quantize_tokens.default[1]
            getitem_2 = cpu_layer_norm_quantize_tokens.default[2]
            cpu_gemm_tokens.default = cpu_gemm_tokens.default(getitem, fc1.weight_packed, fc1.compensation, fc1.scale, \
None, fc1.bias_folded, fc1.gelu_table, False, 0, 255, False, getitem_1, getitem_2)
            getitem_3 = cpu_gemm_tokens.default[0]
            getitem_4 = cpu_gemm_tokens.default[1]
            getitem_5 = cpu_gemm_tokens.default[2]
            cpu_gemm.default = cpu_gemm.default(getitem_3, fc2.weight_packed, fc2.compensation, fc2.scale, None, \
fc2.bias_folded, None, check_input, None, None, None, None, None, 0, 0, False, getitem_4, getitem_5)
            return cpu_gemm.default
        """,
        stage=Stage.LOWERED,
        tolerance=1e-6,  # a table gives GELU
    )
    assert [r.label for r in map(record_of, gm.graph.nodes) if r is not None] == ["fc1", "fc2"]
    assert [r.macs for r in report(gm)] == [r.macs for r in report(fused(MLP(), config=config))]
