"""The values at the entrance of a converted model: int8 codes can say neither NaN nor that they were clipped."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import check_count, check_real, check_tensor

# Of the width of the calibrated range: how far beyond it a value may lie, and how narrow a batch may be.
BEYOND, NARROW = 1.0, 1 / 32
_Key = tuple[str, float | None, float | None]
_settled = set[_Key]()  # whose range is not looked at again: it was warned of, or lies on CUDA


def check_values(x: Tensor, low: float | None, high: float | None, name: str, refuse: bool, batched: bool) -> Tensor:
    """
    Return float32 ``(B,)`` for `x` ``(B, ...)``: 0, or NaN for each image with a value in it that is not finite.

    low, high: the range that calibration saw, None where it is unknown. A batch that reaches beyond it by more than its width,
    or that is not 1/32 as wide, gives a warning with both ranges, the first time. refuse: raise for either in place of that.
    batched: whether `x` has a row for each image; if not, the result has no axis and speaks of all.

    On CUDA to look at values waits for the device, so that ranges are looked at in the first call alone, and in a CUDA graph
    that is being recorded nothing is: there images that are not finite give NaN, whatever `refuse` says.

    Raises `InputError` for whole numbers, such as images of uint8, and where it is to `refuse`.
    """
    flags: Tensor = torch.ops.fxquant.check_values(x.detach(), low, high, name, refuse, batched)
    return flags


def mark_invalid(y: Tensor, invalid: Tensor, batched: bool) -> Tensor:
    """
    Return ``y - invalid``: `y`, but NaN in the rows of images of which `check_values` says so.

    batched: whether y ``(B, ...)`` and invalid ``(B,)`` have a row for each image; if not, one invalid image makes all NaN.
    Whole numbers and truth values, which cannot be NaN, stay as they are: there `check_values` is to refuse. Raises
    `InputError` where the two are of different length.
    """
    check_tensor("invalid", invalid, torch.float32, y.shape[:1] if batched else None)
    check_real("y", y)
    rows = invalid.reshape(-1, *(1,) * (y.dim() - 1)) if batched else invalid.sum()
    return y ^ rows.bool() if y.dtype is torch.bool else y - rows.to(y.dtype)


# By define and impl: a custom_op takes twice as long to call, and this runs once per batch.
torch.library.define(
    "fxquant::check_values", "(Tensor x, float? low, float? high, str name, bool refuse, bool batched) -> Tensor"
)


@torch.library.impl("fxquant::check_values", "CompositeExplicitAutograd")
def _check(x: Tensor, low: float | None, high: float | None, name: str, refuse: bool, batched: bool) -> Tensor:
    _check_arguments(x, low, high, name, batched)
    if x.numel() == 0:
        return _flags(x, batched)
    key = name, low, high
    if x.is_cuda and (torch.cuda.is_current_stream_capturing() or (key in _settled and not refuse)):
        return _nan_of(x, batched)
    smallest, largest = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        if refuse:
            raise InputError(f"input {name!r}: expected finite values, found NaN or infinite ones in the batch")
        return _nan_of(x, batched)
    problem = _range_problem(smallest, largest, low, high)
    if problem is not None and refuse:
        raise InputError(f"input {name!r}: {problem}")
    if problem is not None and key not in _settled:
        warnings.warn(f"input {name!r}: {problem}", UserWarning, stacklevel=2)
    if problem is not None or x.is_cuda:
        _settled.add(key)
    return _flags(x, batched)


@torch.library.register_fake("fxquant::check_values")  # type: ignore[untyped-decorator]
def _(x: Tensor, low: float | None, high: float | None, name: str, refuse: bool, batched: bool) -> Tensor:
    _check_arguments(x, low, high, name, batched)
    return _flags(x, batched)


def _check_arguments(x: Tensor, low: float | None, high: float | None, name: str, batched: bool) -> None:
    if not x.is_floating_point():
        raise InputError(
            f"input {name!r}: expected floating values as calibration saw them, found {x.dtype}: normalise the images as there"
        )
    if batched and x.dim() == 0:
        raise InputError(f"input {name!r}: expected a row for each image, found a number")
    if low is not None and high is not None and not low <= high:
        raise InputError(f"input {name!r}: expected the smallest and the largest value, found {low} and {high}")
    check_count(f"input {name!r}", x)


def _flags(x: Tensor, batched: bool) -> Tensor:
    return x.new_zeros(x.shape[:1] if batched else (), dtype=torch.float32)


def _nan_of(x: Tensor, batched: bool) -> Tensor:
    zeros = x.float() * 0  # NaN where a value is not finite
    return zeros.flatten(1).sum(1) if batched and x.dim() > 1 else zeros if batched else zeros.sum()


def _range_problem(smallest: float, largest: float, low: float | None, high: float | None) -> str | None:
    if low is None or high is None:
        return None
    width = high - low
    beyond = smallest < low - BEYOND * width or largest > high + BEYOND * width
    narrow = 0 < largest - smallest < NARROW * width  # one colour is a picture, too
    if not (beyond or narrow):
        return None
    return (
        f"its values lie in {smallest:.4g} to {largest:.4g}, those of the calibration in {low:.4g} to {high:.4g}: "
        "normalise the images as there, or calibrate the model on such images"
    )
