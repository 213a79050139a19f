"""The gate every calibration batch passes: it checks the images and remembers their shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.observers.take_in import take_in

# The smallest and the largest of some values.
Range = tuple[float, float]
# The shape, the dtype and the range of a batch; None for values that are no floats.
Summary = tuple[tuple[int, ...], torch.dtype, Range | None]
_CONSTANT = "expected images, found the constant {:g}; calibrate with real images"


@dataclass(frozen=True)
class SeenInput:
    """
    What calibration saw of the input `name`.

    range: its smallest and its largest value, None where that is not known. infinite: it is a mask, which may be infinite.
    strict: wrong values are refused.
    """

    name: str
    range: Range | None
    infinite: bool
    strict: bool


class InputRecorder(nn.Module):
    """
    Check each input of a prepared model and keep the shape, the range and the count of what it saw.

    A batch that is empty, not finite, or of another image shape than the first raises `CalibrationError` naming the input
    and the batch. `refuse_constant` raises it where all batches of `images` were one value; other inputs may be. infinite:
    whether infinities are let through, as those of a mask. strict: whether the converted model is to refuse values that are
    not finite or lie far outside of what was seen, in place of a NaN result and a warning.
    """

    batches: Tensor
    shape: Tensor
    dtype: torch.dtype | None = None
    range: Range | None = None  # of all floating values that it saw, None where that is not known
    # While several ranks run a batch each: what it was like, and how many come before it.
    pending: list[Summary] | None = None
    ahead = 0
    _is_impure = True  # so that torch.fx keeps the recorder of an input that nothing reads

    def __init__(self, operand: str, images: bool = True, infinite: bool = False, strict: bool = False) -> None:
        super().__init__()
        self.operand, self.images, self.infinite, self.strict = operand, images, infinite, strict
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shape", torch.zeros(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Check `x` and return it; in training, behind the first batch, and under `torch.export` just return it."""
        # A check waits for the device, and the loss of a training tells as well.
        trained = self.training and torch.is_grad_enabled() and self.dtype is not None
        if not trained and not torch.compiler.is_exporting():
            take_in(self, x)
        return x

    def take_in(self, x: Tensor) -> None:
        """Check a batch `x` of inputs and remember its shape, its dtype and its range."""
        if not isinstance(x, Tensor):
            raise CalibrationError(f"{self._where()}: expected a tensor, found {type(x).__name__}")
        found, where = tuple(x.shape), self._where()
        if x.numel() == 0:
            raise CalibrationError(f"{where}: expected images, found an empty batch of shape {found}")
        self._check_shape(found)
        found_range = self._check_values(x, where) if x.is_floating_point() else None
        if self.training and self._is_constant(found_range, found):  # by its first batch a training sets its steps
            raise CalibrationError(f"{where}: {_CONSTANT.format(*found_range)}")
        if self.pending is not None:
            self.pending.append((found, x.dtype, found_range))
        else:
            self.replay((found, x.dtype, found_range))

    def replay(self, summary: Summary) -> None:
        """Take in the shape, the dtype and the range of one batch, which another rank may have seen."""
        shape, dtype, found = summary
        self._check_shape(shape)
        if not int(self.batches):
            self.range = found
        elif self.range is not None and found is not None:
            self.range = min(self.range[0], found[0]), max(self.range[1], found[1])
        if not int(self.batches):
            self.shape = torch.tensor(shape, dtype=torch.int64, device=self.batches.device)
            self.dtype = dtype
        self.batches += 1

    def refuse_constant(self) -> None:
        """Raise `CalibrationError` where all images of all batches were one value."""
        if self._is_constant(self.range, self.shape.tolist()):
            constant = _CONSTANT.format(*self.range)
            raise CalibrationError(f"input {self.operand!r}, all calibration batches: {constant}")

    def seen(self) -> SeenInput:
        """Return what the batches were like."""
        return SeenInput(self.operand, self.range, self.infinite, self.strict)

    def example(self) -> Tensor:
        """Return a stand-in of the first batch's shape and dtype, without values."""
        shape = [int(n) for n in self.shape]
        return torch.empty(shape, dtype=self.dtype or torch.float32, device=self.batches.device)

    def _where(self) -> str:
        return f"input {self.operand!r}, calibration batch {int(self.batches) + self.ahead}"

    def _check_shape(self, found: tuple[int, ...]) -> None:
        if int(self.batches) and found[1:] != tuple(self.shape.tolist())[1:]:
            expected = ", ".join(str(n) for n in self.shape.tolist()[1:])
            raise CalibrationError(
                f"{self._where()}: expected shape (B, {expected}) as in the first batch, found {found}"
            )

    def _is_constant(self, found: Range | None, shape: Sequence[int]) -> TypeGuard[Range]:
        return self.images and found is not None and found[0] == found[1] and math.prod(shape) > 1

    def _check_values(self, x: Tensor, where: str) -> Range:
        """Refuse values that are not finite, and return their range."""
        minimum, maximum = (float(v) for v in torch.aminmax(x.detach()))
        if minimum != minimum or (not self.infinite and max(abs(minimum), abs(maximum)) == float("inf")):
            kind = "NaN" if bool(torch.isnan(x).any()) else "infinite"
            raise CalibrationError(f"{where}: expected finite pixels, found {kind} values; check the normalisation")
        return minimum, maximum

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "shape")
        if isinstance(saved, Tensor):
            self.shape = torch.empty_like(saved, device=self.shape.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
