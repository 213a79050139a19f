"""Where the time of a compiled model goes, by the names of the kernels in torch's profile."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fxquant.inspection.profile import OpClass, Profile, collect_profile

# A part of a kernel's name -> its class, the first that matches. A kernel that inductor fused bears the names of all that it
# computes: it counts as what takes longest in it, the way the operators that fuse by hand do in `profile.CLASSES`.
KERNELS: tuple[tuple[str, OpClass], ...] = (
    (r"scaled_dot_product|attention|flash|fmha|softmax", OpClass.ATTENTION),
    (r"^(aten|mkldnn|mkl|onednn|fxquant)::\w*(mm|gemm|linear|conv)\w*$", OpClass.PRODUCTS),
    (r"gemm|^batched|cutlass|xmma|^triton_tem_|^nvjet", OpClass.PRODUCTS),  # of CUDA
    (r"layer_norm|rms_norm|batch_norm", OpClass.NORMALISATION),
    (r"gelu|silu|relu|_erf_|_tanh_", OpClass.ACTIVATION),
    (r"quantize|_clamp_.*_round_", OpClass.QUANTISE),
)


def profile_compiled(build: Callable[[], Callable[[Tensor], Any]], images: Tensor, rounds: int = 5) -> Profile:
    """
    Compile what `build` returns, call it `rounds` times on `images`, and return means per call.

    On a CPU the rest includes the calls around the kernels and the cost of profiling, which shows where kernels are short.
    On a GPU only kernels count. What torch compiled before is forgotten.
    """
    import torch._inductor.config as inductor

    torch.compiler.reset()  # or dynamo finds the same model compiled without names
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if images.is_cuda else [])]
    with torch.no_grad():
        with inductor.patch({"cpp.enable_kernel_profile": True}):  # the names of fused kernels
            model = build()
            for _ in range(2):
                model(images)
        with profile(activities=activities) as profiled:
            for _ in range(rounds):
                model(images)
            if images.is_cuda:
                torch.cuda.synchronize()
    found = _seconds(profiled, images.is_cuda)
    return collect_profile((classify_kernel(name), name, seconds / rounds) for name, seconds in found)


def classify_kernel(name: str) -> OpClass:
    """Return the class of a kernel by its name."""
    return next((op_class for pattern, op_class in KERNELS if re.search(pattern, name)), OpClass.REST)


def _seconds(profiled: Any, on_gpu: bool) -> Iterator[tuple[str, float]]:
    for event in profiled.events():
        if event.device_type.name == ("CUDA" if on_gpu else "CPU"):
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            yield event.name, microseconds / 1e6
