"""The sets of instructions that the kernels are built for."""

from __future__ import annotations

import functools
import os
import platform
from typing import NamedTuple

import torch

from fxquant.errors import ConfigError

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
_HAS_AVX2 = ("avx2", "fma3")
_HAS_AVX512 = (*_HAS_AVX2, "avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni")


class Isa(NamedTuple):
    """
    A set of instructions.

    label: as reports name it. needs: what `torch.cpu.get_capabilities` has to know. flags: of the compiler. machine: as
    `platform.machine` names it. chosen: whether it is used without being asked for.
    """

    name: str
    label: str
    needs: tuple[str, ...]
    flags: tuple[str, ...]
    machine: str = "x86_64"
    chosen: bool = True


# From the best on. `dispatch.cpp` has the same names, for programs without Python.
ISAS = (
    Isa("avx512_bf16", "AVX512", (*_HAS_AVX512, "avx512_bf16"), (*_AVX512, "-mavx512bf16")),
    Isa("avx512_vnni", "AVX512", _HAS_AVX512, _AVX512),
    Isa("avx_vnni", "AVX-VNNI", (*_HAS_AVX2, "avx_vnni"), (*_AVX2, "-mavxvnni")),
    Isa("avx2", "AVX2", _HAS_AVX2, _AVX2),
    # What every other is compared with; slower than torch.
    Isa("portable", "portable C++", (), ("-march=x86-64",), chosen=False),
    # The kernels of avx_vnni, in the encoding that processors with AVX-512 have: to test them there.
    Isa("avx_vnni_evex", "AVX-VNNI", _HAS_AVX512, (*_AVX512, "-DFXQUANT_256_BITS"), chosen=False),
)
NAMES = tuple(isa.name for isa in ISAS)


def isa_named(name: str) -> Isa:
    """Return the set `name`. Raises `ConfigError` for a name that there is not, and where this machine lacks it."""
    found = next((isa for isa in ISAS if isa.name == name), None)
    if found is None:
        raise ConfigError(f"unknown instruction set {name!r}: expected one of {', '.join(map(repr, NAMES))}")
    missing = missing_here(found)
    if missing:
        there = ", ".join(repr(isa.name) for isa in isas_here())
        raise ConfigError(
            f"this machine cannot run {name!r}, it has no {', '.join(missing)}: it can run {there or 'none'}"
        )
    return found


@functools.cache
def isas_here() -> tuple[Isa, ...]:
    """Return the sets that this machine can run, from the best on."""
    return tuple(isa for isa in ISAS if not missing_here(isa))


def missing_here(isa: Isa) -> tuple[str, ...]:
    """Return what this machine lacks for `isa`."""
    if platform.machine() not in (isa.machine, "AMD64") or platform.system() != "Linux":
        return (f"{isa.machine} under Linux",)
    known = torch.cpu.get_capabilities()
    return tuple(name for name in isa.needs if not known.get(name))


def usual_isa() -> Isa | None:
    """Return what FXQUANT_ISA names, or the best that this machine can run; None where there is none."""
    asked = os.environ.get("FXQUANT_ISA")
    return isa_named(asked) if asked else next((isa for isa in isas_here() if isa.chosen), None)
