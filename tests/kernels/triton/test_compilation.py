"""The kernels compile for the devices they are made for, which needs none of them."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.kernels.triton.test_operators import CALLS

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets, so it does not compile"
)

HOPPER = 90
FLAGS = {
    "gemm": {"EVEN_K": True, "TWIN_INPUT": False, "GELU": 0, "RESIDUAL": False, "DTYPE": 1, "CODES": 0},
    "layer_norm": {"WEIGHT": True, "BIAS": True, "BLOCK_C": 1024},
    "quantize_values": {"CODES": 2},
    "batched": {"DTYPE": 1, "TWIN_INPUT": True, "A_ZERO_POINT": False, "B_ZERO_POINT": True},
}
QUANTIZER = {"ZERO_POINT": True, "NOISE": True, "QMIN": 0, "QMAX": 255}
INT8 = ("codes_ptr", "weight_ptr", "a_ptr", "b_ptr")


def assembly(kernel: str, tile: int, capability: int, **flags: Any) -> tuple[str, int]:
    """Return the PTX of a kernel with tile number `tile` of those it chooses from, and the bytes of memory its tiles share."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fxquant.kernels.triton import batched, gemm, layer_norm, quantize

    tuner = {
        "gemm": gemm.gemm,
        "layer_norm": layer_norm.layer_norm,
        "quantize_values": quantize.quantize_values,
        "batched": batched.batched,
    }[kernel]
    config, names = tuner.configs[tile], tuner.fn.arg_names
    constants = QUANTIZER | FLAGS[kernel] | flags | config.kwargs
    constants = {(names.index(name),): value for name, value in constants.items() if name in names}
    signature = {
        name: "constexpr" if (i,) in constants else _type(kernel, name, bool(flags.get("CODES")))
        for i, name in enumerate(names)
    }
    aligned = [name for name in names if name.endswith(("_ptr", "stride")) or name in ("K", "N", "C")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    source = ASTSource(tuner.fn, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["ptx"], compiled.metadata.shared


def _type(kernel: str, name: str, codes: bool) -> str:
    if not name.endswith("_ptr"):
        return "fp32" if name == "epsilon" else "i32"
    if name in INT8 and kernel in ("gemm", "batched"):
        return "*i8"
    if name == "out_ptr":
        return "*bf16" if kernel == "batched" or (kernel == "gemm" and not codes) else "*i8"
    if "zero_point" in name:
        return "*i32"
    return (
        "*bf16"
        if name in ("x_ptr", "residual_ptr") or (kernel == "layer_norm" and name in ("weight_ptr", "bias_ptr"))
        else "*fp32"
    )


class Hopper:
    """A driver of Triton for a device that is not there."""

    def get_current_target(self) -> Any:
        """Return what to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", HOPPER, 32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="opcheck traces the operators on the device that is there")
@pytest.mark.parametrize("name", CALLS)
def test_compilers_see_the_kernel_and_that_it_writes_its_result_alone(name: str) -> None:
    from triton.runtime import driver

    operator = getattr(importlib.import_module("fxquant.kernels.triton.operators"), name.partition(" ")[0])
    arguments = CALLS[name]
    driver.set_active(Hopper())
    try:
        with FakeTensorMode():
            tensors = [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in arguments if isinstance(t, Tensor)]

            def call(*given: Tensor) -> tuple[Tensor]:
                left = iter(given)
                return (operator(*(next(left) if isinstance(a, Tensor) else a for a in arguments)),)

            traced: Any = aot_export_joint_simple(call, tuple(tensors), trace_joint=False)
    finally:
        driver._active = None  # there is no other to go back to
    kernels = [n for n in traced.graph.nodes if str(n.target) == "triton_kernel_wrapper_functional"]
    assert len(kernels) == 1
    assert kernels[0].kwargs["tensors_to_clone"] == ["out_ptr"]


EPILOGUES: dict[str, dict[str, Any]] = {
    "bias": {},
    "residual": {"RESIDUAL": True},
    "gelu, codes": {"GELU": 1, "CODES": 1},
    "twin": {"TWIN_INPUT": True, "EVEN_K": False},
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_products_run_on_the_matrix_units_of_hopper(name: str) -> None:
    ptx, shared = assembly("gemm", 3, HOPPER, **EPILOGUES[name])
    assert "wgmma.mma_async" in ptx
    assert "s32.s8.s8" in ptx
    assert "cp.async" in ptx, "the next tile is read while this one is multiplied"
    assert shared <= 227 * 1024


def test_batched_products_run_on_the_matrix_units_of_hopper() -> None:
    ptx, _ = assembly("batched", 3, HOPPER)
    assert "wgmma.mma_async" in ptx


@pytest.mark.parametrize("kernel", ["layer_norm", "quantize_values"])
def test_others_compile(kernel: str) -> None:
    assert ".entry" in assembly(kernel, 0, HOPPER)[0]


def test_products_run_on_older_matrix_units() -> None:
    ptx, _ = assembly("gemm", 9, 80)
    assert re.search(r"mma\.sync.*s32\.s8\.s8", ptx)


def test_codes_need_no_division_and_no_conversion_of_each_value() -> None:
    ptx, _ = assembly("gemm", 3, HOPPER, CODES=1)
    assert ptx.count("div.rn.f32") == 1, "the reciprocal of the scale"
    assert "cvt.rni" not in ptx


def test_scale_and_bias_are_rounded_each() -> None:
    ptx, _ = assembly("gemm", 3, HOPPER)
    assert re.search(r"mul\.rn\S*\.f32", ptx)
    assert "fma.rn.f32" not in ptx
