"""Sets of instructions that a measurement can be held to, by what each library reads of its environment."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fxquant.kernels.cpu import isa_in_use
from fxquant.kernels.cpu.isa import isas_here

NATIVE = "native"
# ATen and inductor, inductor's compiler, MKL; below oneDNN, that of OpenVINO too. OpenVINO's other kernels read nothing, and it
# asks oneDNN for bfloat16 where that may not have it. ONNX Runtime reads nothing.
_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "TORCHINDUCTOR_CPP_MARCH": "haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "TORCHINDUCTOR_CPP_MARCH": "cascadelake",
    "MKL_ENABLE_INSTRUCTIONS": "AVX512",
}
ISAS: Mapping[str, Mapping[str, str]] = {
    NATIVE: {},
    "avx2": {**_AVX2, "ONEDNN_MAX_CPU_ISA": "AVX2", "FXQUANT_ISA": "avx2"},
    "avx_vnni": {**_AVX2, "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "FXQUANT_ISA": "avx_vnni"},
    "avx512": {**_AVX512, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI", "FXQUANT_ISA": "avx512_vnni"},
}


def environment_of(isa: str) -> dict[str, str]:
    """
    Return the variables that hold a process to `isa`.

    A processor with AVX-512 may lack the encoding of AVX-VNNI: there fxquant's kernels run the same instructions in that of
    AVX-512, and oneDNN is left with AVX2.
    """
    pinned = dict(ISAS[isa])
    names = [each.name for each in isas_here()]
    if isa == "avx_vnni" and isa not in names and "avx_vnni_evex" in names:
        pinned["FXQUANT_ISA"] = "avx_vnni_evex"
    return pinned


def in_use() -> dict[str, str | None]:
    """Return the instructions that ATen's operators and fxquant's kernels use in this process."""
    kernels = isa_in_use()
    return {"aten": torch.backends.cpu.get_cpu_capability(), "fxquant": kernels.name if kernels else None}
