"""What a graph may cost, in relation to its inputs and parameters, found while it runs on shapes."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fxquant.checkpoint.soundness.kernel_checks import check_kernel
from fxquant.errors import CheckpointError

# Whatever the size of a model, so much takes about a second.
_VALUE, _VALUES, _PRODUCTS, _CALLS = 2**26, 2**28, 2**32, 2**17
_PER_VALUE, _ALL_VALUES, _MACS = 64, 4096, 64  # in units of the model's own size

_META = torch.device("meta")
_FAST = (torch.float32, torch.bfloat16, torch.int8)
_SLOW = 8  # times as long, where no fast kernel multiplies a dtype
_SPECIAL = 32  # times as long as an addition
# Operators whose work per value is more than a few steps: by a window, by the side of a matrix, or by what they compute.
_WINDOW = re.compile(r".*pool\dd.*|im2col|col2im|unfold.*")
_MATRIX = re.compile(
    "_?linalg_.*|matrix_exp|cholesky.*|qr|svd|inverse|pinverse|(log|slog)?det|triangular_solve|lu_.*|geqrf|orgqr|ormqr"
)
_COSTLY = re.compile(
    "special_.*|.*gamma.*|erfinv|polygamma|sort|argsort|topk|kthvalue|.*median|mode|.*quantile|unique.*|_?fft.*|cum.*|"
    "logcumsumexp|searchsorted.*|bucketize.*|pow|float_power|histc|.*cdist.*|upsample.*|_upsample.*|grid_sampler.*|a?sinh|"
    "a?cosh|a?tanh?|sin|cos|exp2?|expm1|log.*|erfc?|i0|lerp|fmod|remainder|floor_divide|atan2|index.*|scatter.*|gather"
)


class Budget(TorchDispatchMode):
    """
    Count what the operators of ATen that run on the meta device would cost, and raise `CheckpointError` where it is too much.

    inputs, parameters: how many values go into the graph, and how many it holds. Whatever makes a new tensor makes one on the
    meta device, so that nothing is allocated.
    """

    def __init__(self, inputs: int, parameters: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        size = inputs + parameters
        self.value, self.values = max(_VALUE, _PER_VALUE * size), max(_VALUES, _ALL_VALUES * size)
        self.products = max(_PRODUCTS, _MACS * inputs * parameters)
        self.calls = _CALLS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` on shapes and take what it would cost off the budget."""
        kwargs = kwargs or {}
        check_kernel(func, args, kwargs)
        if _takes_device(func):
            kwargs = {**kwargs, "device": _META}
        result = func(*args, **kwargs)
        self.calls -= 1
        if self.calls < 0:
            _refuse("operators")
        self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        made = [t for t in ((result,) if isinstance(result, Tensor) else tree_leaves(result)) if isinstance(t, Tensor)]
        largest = max((t.numel() for t in made), default=0)
        if largest > self.value:
            _refuse("values in one tensor")
        if func.is_view:
            return
        read = max((a.numel() for a in args if isinstance(a, Tensor)), default=0)
        self.values -= _work(func, args, max(largest, read))
        if self.values < 0:
            _refuse("steps")
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            weight = 1 if all(t.dtype in _FAST for t in args if isinstance(t, Tensor)) else _SLOW
            self.products -= weight * int(formula(*args, **kwargs, out_val=result)) // 2
        if self.products < 0:
            _refuse("multiplications")


def _work(func: Any, args: tuple[Any, ...], size: int) -> int:
    """Return how many steps `func` takes for results or operands of `size` values."""
    name = func._overloadpacket.__name__
    kind = _kind(name)
    if kind is _WINDOW:
        window = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        for side in window:
            size *= max(1, int(side))
    elif kind is _MATRIX:
        sides = [n for a in args if isinstance(a, Tensor) for n in a.shape[-2:]]
        size *= max([*sides, 1]) * 8
    return size * _SPECIAL if kind is _COSTLY else size


@cache
def _kind(name: str) -> re.Pattern[str] | None:
    return next((kind for kind in (_WINDOW, _MATRIX, _COSTLY) if kind.fullmatch(name)), None)


@cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _refuse(what: str) -> NoReturn:
    raise CheckpointError(f"it costs too much for a graph of this size: too many {what}")
