"""Load the kernels, and choose among the sets of instructions that this machine has."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from types import TracebackType

import torch

from fxquant.errors import ConfigError
from fxquant.kernels.cpu import build, isa
from fxquant.kernels.cpu.isa import Isa
from fxquant.kernels.cpu.libraries import UnavailableError, expected, kernels_library, part_library

NO_KERNELS = "fxquant has kernels for x86-64 processors with AVX2 under Linux alone"
_INSTEAD = "fxquant's kernels for processors do not run, torch's operators do instead: %s"

logger = logging.getLogger(__name__)
_lock = threading.RLock()
_in_use: Isa | None = None


def is_available() -> bool:
    """Say whether the kernels run here. The first call may build them, which takes some seconds."""
    return obstacle() is None


@functools.cache
def obstacle() -> str | None:
    """
    Return why the kernels cannot run on this machine, or None once they are loaded.

    Raises `ConfigError` where FXQUANT_ISA names what this machine lacks.
    """
    found = isa.usual_isa()
    if found is None:
        logger.warning(_INSTEAD, NO_KERNELS)
        return NO_KERNELS
    try:
        _use(found)
    except UnavailableError as error:
        logger.warning(_INSTEAD, error)
        return str(error).partition("\n")[0]
    return None


def expected_obstacle() -> str | None:
    """Return what `obstacle` would return, as far as that is known without building the kernels."""
    if obstacle.cache_info().currsize:
        return obstacle()
    found = isa.usual_isa()
    return NO_KERNELS if found is None else expected(found)


def isa_in_use() -> Isa | None:
    """Return the set of instructions in use, or the one that would be; None where there are no kernels."""
    return _in_use or isa.usual_isa()


class use_isa:
    """
    Run the kernels for the instruction set `name` from now on, or in the block that this begins, in all threads.

    name: "avx512_bf16", "avx512_vnni", "avx_vnni", "avx2", "portable" or "avx_vnni_evex". All give the same codes; without
    bfloat16 products attention adds up in float32. The environment variable FXQUANT_ISA names the set that a process begins
    with.

    Raises `ConfigError` for other names, where this machine lacks the instructions, and where the kernels cannot be built.
    """

    def __init__(self, name: str) -> None:
        self.before = isa_in_use()
        _switch(isa.isa_named(name))

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before is not None:
            _switch(self.before)


def _switch(to: Isa) -> None:
    try:
        _use(to)
    except UnavailableError as error:
        raise ConfigError(f"there are no kernels for {to.name!r}: {error}") from error


def _use(to: Isa) -> None:
    global _in_use
    with _lock:
        if _in_use is to:
            return
        library, dispatch = kernels_library(to), _dispatch()
        failure = dispatch.fxquant_use(str(library).encode())
        if failure:
            raise UnavailableError(failure.decode())
        _in_use = to


@functools.cache
def _dispatch() -> ctypes.CDLL:
    """Register the operators, once, and return the library that has them."""
    path = str(part_library(build.DISPATCH))
    try:
        torch.ops.load_library(path)
        library = ctypes.CDLL(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be loaded: {error}") from error
    library.fxquant_use.restype = ctypes.c_char_p
    return library
