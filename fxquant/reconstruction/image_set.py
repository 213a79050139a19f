"""The images that a model is reconstructed with."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fxquant.errors import CalibrationError

Values = tuple[Tensor, ...]


def joined(batches: list[Values]) -> Values:
    """
    Return the inputs of all batches, each with the images along axis 0.

    Raises `CalibrationError` for an input without that axis, for images of several sizes, and for fewer than two of them.
    """
    first = batches[0]
    for index, inputs in enumerate(batches):
        one_size = all(t.shape[1:] == s.shape[1:] for t, s in zip(inputs, first, strict=True))
        if not one_size or any(t.dim() == 0 or len(t) != len(inputs[0]) for t in inputs):
            found = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise CalibrationError(
                f"batch {index}: reconstruction draws images anew, and expected inputs with the images along axis 0, of one "
                f"size in all batches, found {found}"
            )
    inputs = tuple(torch.cat(each) for each in zip(*batches, strict=True))
    if len(inputs[0]) < 2:
        raise CalibrationError("reconstruction expected at least 2 images, of which it holds one out, found 1")
    return inputs


def split(count: int, part: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of the images to train on and of those held out, at least one, which are spread evenly."""
    held = min(max(1, round(count * part)), count - 1)
    out = torch.zeros(count, dtype=torch.bool)
    out[((torch.arange(held) + 0.5) * count / held).long()] = True
    return torch.nonzero(~out)[:, 0], torch.nonzero(out)[:, 0]


def digest(inputs: Values) -> str:
    """Return what tells these images from others."""
    found = hashlib.sha256()
    for value in inputs:
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]
