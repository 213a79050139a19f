"""The entrance of a converted model: wrong shapes are named here rather than by an operator deep inside."""

from __future__ import annotations

from torch import Tensor

from fxquant.errors import InputError


def check_input(x: Tensor, shape: tuple[int | None, ...], name: str) -> Tensor:
    """
    Return `x` if it has the `shape` the model was calibrated with; None stands for an axis of any size.

    Raises `InputError` with the expected and the found shape, or type where `x` is no tensor.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"input {name!r}: expected a torch.Tensor, found {type(x).__name__}")
    if x.dim() != len(shape) or any(n is not None and n != m for n, m in zip(shape, x.shape, strict=True)):
        expected = ", ".join("*" if n is None else str(n) for n in shape)
        raise InputError(
            f"input {name!r}: expected shape ({expected}), * being any size, found {tuple(x.shape)}; "
            "resize the images, or prepare and calibrate the model for this size"
        )
    return x
