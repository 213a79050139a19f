"""
A process in which Triton interprets kernels: the choice is made for good when Triton is imported.

Tests talk to `Kernels`, whose calls run there or on a CUDA device; tensors come from and go back to the CPU.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Kernels:
    """The functions of `fxquant.kernels.triton.operators` on one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.pool: ProcessPoolExecutor | None = None
        if device == "cpu":
            spawn = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_interpret)

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Tensor:
        """Call the function `name` of the operators."""
        result: Tensor = self._run("fxquant.kernels.triton.operators", name, args, kwargs)
        return result

    def check(self, name: str, *args: Any) -> dict[str, str]:
        """Return what `torch.library.opcheck` finds out about the operator `name`."""
        found: dict[str, str] = self._run(__name__, "opcheck", (name, *args), {})
        return found

    def compiled(self, name: str, *args: Any) -> Tensor:
        """Call the operator `name` under `torch.compile`."""
        result: Tensor = self._run(__name__, "compiled", (name, *args), {})
        return result

    def registered(self) -> set[str]:
        """Return the names of all operators of fxquant."""
        found: set[str] = self._run(__name__, "registered", (), {})
        return found

    def faults(self, name: str, right: bool) -> list[str]:
        """Return what `tests.support.operator_outcomes` finds wrong with the operator of the call `name`."""
        call = ("triton_calls", name, right, self.device)
        found: list[str] = self._run("tests.support.operator_outcomes", "operator_faults", call, {})
        return found

    def close(self) -> None:
        """End the process."""
        if self.pool is not None:
            self.pool.shutdown()

    def _run(self, module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.pool is None:
            return _call(module, name, args, kwargs, self.device)
        # As bytes: tensors in shared memory would keep files open.
        call = pickle.dumps((module, name, args, kwargs, "cpu"))
        return pickle.loads(self.pool.submit(_call_pickled, call).result())


def opcheck(name: str, *args: Any) -> dict[str, str]:
    """Check an operator: schema, fake, autograd registration and tracing."""
    import torch

    found: dict[str, str] = torch.library.opcheck(_operator(name), args)
    return found


def registered() -> set[str]:
    """Return the names of all operators of fxquant, those in Triton with them."""
    from tests.support import operator_calls

    importlib.import_module("fxquant.kernels.triton.operators")
    return operator_calls.registered()


def compiled(name: str, *args: Any) -> Tensor:
    """Call an operator under `torch.compile`, in one graph."""
    import torch

    run: Any = torch.compile(_operator(name), fullgraph=True)
    result: Tensor = run(*args)
    return result


def _operator(name: str) -> Any:
    return getattr(importlib.import_module("fxquant.kernels.triton.operators"), name)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.set_num_threads(1)


def _call_pickled(call: bytes) -> bytes:
    return pickle.dumps(_call(*pickle.loads(call)))


def _call(module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], device: str) -> Any:
    import torch
    from torch.utils._pytree import tree_map_only

    args, kwargs = tree_map_only(torch.Tensor, lambda t: t.to(device), (args, kwargs))
    result = getattr(importlib.import_module(module), name)(*args, **kwargs)
    return tree_map_only(torch.Tensor, lambda t: t.cpu(), result)
