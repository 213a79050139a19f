"""What the kernels of ATen refuse although it has a shape: what an operator is asked for beside those of its operands."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import CheckpointError

_FACTORS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "addmv", "mv", "dot", "linear"}
_NEW_AXIS = {"unsqueeze", "stack", "diag_embed", "unsqueeze_copy", "diag_embed_copy"}
_REDUCTIONS = {
    *(
        "sum",
        "nansum",
        "mean",
        "prod",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "amax",
        "amin",
        "aminmax",
        "argmax",
        "argmin",
    ),
    *("any", "all", "logsumexp", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_softmax", "_log_softmax"),
    *(
        "softmax",
        "log_softmax",
        "sort",
        "argsort",
        "flip",
        "max",
        "min",
        "median",
        "nanmedian",
        "mode",
        "norm",
        "tril",
        "triu",
    ),
}
_TRIED: set[tuple[Any, ...]] = set()
_LARGEST = 2**62  # of a size: torch keeps larger ones elsewhere


def check_kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `CheckpointError` where the kernel of `func`, an overload of ATen, would not take these arguments."""
    name = func._overloadpacket.__name__
    if name in _FACTORS:
        _check_dtypes(args)
    if name == "convolution":
        _check_convolution(*args)
    if name == "pow" and len(args) == 2:
        _check_power(*args)
    if kwargs.get("rounding_mode") == "trunc":
        _check_quotient(*args[:2])
    for value in args:
        if isinstance(value, list | tuple) and any(type(n) is int and abs(n) >= _LARGEST for n in value):
            raise CheckpointError(f"expected sizes below 2^62, found {value!r:.100}")
    if torch.Tag.pointwise in func.tags or name in _REDUCTIONS:
        _try_dtypes(func, args, kwargs)
    if name not in _NEW_AXIS and args and isinstance(args[0], Tensor):
        _check_axes(func, args, kwargs)


def check_bias(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `CheckpointError` where `target` is a linear layer whose bias is not a vector: on shapes, others broadcast."""
    if target not in (F.linear, torch.ops.aten.linear.default):
        return
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    if isinstance(bias, Tensor) and bias.dim() > 1:
        raise CheckpointError(f"expected a bias of one axis, found shape {tuple(bias.shape)}")


def _check_dtypes(args: tuple[Any, ...]) -> None:
    found = {a.dtype for a in args if isinstance(a, Tensor)}
    if len(found) > 1:
        raise CheckpointError(f"expected factors of one dtype, found {' and '.join(sorted(map(str, found)))}")


def _try_dtypes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let an operator compute a single value, once for operands of these dtypes and ranks: few kernels take all."""
    key = (func, *((a.dtype, a.dim()) if isinstance(a, Tensor) else type(a) for a in args))
    if key in _TRIED:
        return
    ones = [torch.ones((1,) * a.dim(), dtype=a.dtype) if isinstance(a, Tensor) else a for a in args]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics of a single value
        func(*ones, **{name: value for name, value in kwargs.items() if not isinstance(value, Tensor)})
    _TRIED.add(key)


def _check_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> None:
    stride, padding, dilation, transposed, _, groups = settings
    if min([*stride, *dilation, groups]) < 1 or min(padding, default=0) < 0:
        raise CheckpointError(f"expected strides, dilations and groups of 1 or more, found {settings!r:.100}")
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise CheckpointError(f"expected a bias of shape ({outputs},), found {tuple(bias.shape)}")


def _check_power(base: Any, exponent: Any) -> None:
    whole = isinstance(base, Tensor) and not base.is_floating_point() and not base.is_complex()
    if whole and isinstance(exponent, int) and exponent < 0:
        raise CheckpointError(f"whole numbers have no power of {exponent}")


def _check_quotient(dividend: Any, divisor: Any) -> None:
    """Check a quotient of whole numbers: the least one has none by -1, which stops the process, as 0 stops the operator."""
    if any(isinstance(x, float) or (isinstance(x, Tensor) and x.is_floating_point()) for x in (dividend, divisor)):
        return
    number = divisor if isinstance(divisor, int) else None if divisor.is_meta else int(divisor)
    if number is None or number < 1:
        raise CheckpointError(f"expected a fixed number of 1 or more to divide whole numbers by, found {number}")


def _check_axes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check each argument that names axes of the first operand."""
    rank = max(args[0].dim(), 1)
    for place, name in _axes(func):
        value = args[place] if place < len(args) else kwargs.get(name)
        for axis in value if isinstance(value, list | tuple) else (value,):
            if type(axis) is int and not -rank <= axis < rank:
                raise CheckpointError(f"{name}: expected one of {rank} axes, found {axis}")


@cache
def _axes(func: Any) -> list[tuple[int, str]]:
    arguments = enumerate(func._schema.arguments)
    return [
        (place, a.name) for place, a in arguments if a.name in ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim")
    ]
