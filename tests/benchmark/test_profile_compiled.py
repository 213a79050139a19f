"""Kernels of compiled models by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.benchmark.profile_compiled import classify_kernel, profile_compiled
from fxquant.benchmark.subject import Subject
from fxquant.inspection.profile import OpClass


@pytest.mark.parametrize(
    ("name", "op_class"),
    [
        ("aten::addmm", OpClass.PRODUCTS),
        ("aten::_int_mm", OpClass.PRODUCTS),
        ("aten::mkldnn_convolution", OpClass.PRODUCTS),
        ("onednn::qlinear_pointwise", OpClass.PRODUCTS),
        ("fxquant::cpu_gemm", OpClass.PRODUCTS),
        ("sm90_xmma_gemm_bf16bf16", OpClass.PRODUCTS),
        ("fxquant::cpu_attention", OpClass.ATTENTION),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", OpClass.ATTENTION),
        ("graph_0_cpp_fused__softmax_mul_3", OpClass.ATTENTION),
        ("graph_0_cpp_fused__unsafe_view_add_native_layer_norm_4", OpClass.NORMALISATION),
        ("graph_1_cpp_fused_add_clamp_native_layer_norm_qlinear_pointwise_round_4", OpClass.NORMALISATION),
        ("triton_per_fused_native_layer_norm_0", OpClass.NORMALISATION),
        ("fxquant::cpu_layer_norm_quantize", OpClass.NORMALISATION),
        ("graph_0_cpp_fused__unsafe_view_gelu_3", OpClass.ACTIVATION),
        ("graph_1_cpp_fused_add_bitwise_xor_clamp_div_round_sub_view_2", OpClass.QUANTISE),
        ("fxquant::cpu_quantize", OpClass.QUANTISE),
        ("aten::copy_", OpClass.REST),
        ("TorchDynamo Cache Lookup", OpClass.REST),
    ],
)
def test_class_of_a_kernel(name: str, op_class: OpClass) -> None:
    assert classify_kernel(name) is op_class


def test_means_per_call_of_what_ran(subject: Subject, images: Tensor) -> None:
    calls: list[int] = []

    def build() -> torch.nn.Module:
        model = subject.model()
        model.register_forward_pre_hook(lambda *_: calls.append(1))
        return model

    profile = profile_compiled(build, images, rounds=3)
    assert len(calls) == 2 + 3
    assert profile.seconds[OpClass.PRODUCTS] > profile.seconds[OpClass.QUANTISE] == 0
    assert profile.seconds[OpClass.ATTENTION] > 0
    assert "aten::addmm" in profile.operators[OpClass.PRODUCTS]
