"""Two codes to a byte: how weights of four bits and fewer lie in a file."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import CheckpointError

SPAN = 15  # of what four bits hold


def lowest_code(codes: Tensor) -> int | None:
    """Return the smallest value of an int8 tensor if all lie within 16 of each other, None where they do not."""
    if codes.dtype is not torch.int8 or codes.numel() == 0:
        return None
    lowest, highest = (int(v) for v in torch.aminmax(codes))
    return lowest if highest - lowest <= SPAN else None


def pack(codes: Tensor, lowest: int) -> Tensor:
    """Return int8 `codes` of any shape as uint8 ``((n + 1) // 2,)``; the first of a pair lies in the low four bits."""
    nibbles = (codes.reshape(-1).to(torch.int16) - lowest).to(torch.uint8)
    if nibbles.numel() % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpack(packed: Tensor, lowest: int, shape: tuple[int, ...]) -> Tensor:
    """Return the int8 codes of `shape` that `pack` took; raise `CheckpointError` where `packed` holds another number."""
    count = torch.Size(shape).numel()
    if packed.shape != ((count + 1) // 2,) or not -128 <= lowest <= 127:
        raise CheckpointError(f"packed codes of shape {tuple(packed.shape)} do not unpack to shape {shape}")
    nibbles = torch.stack([packed & SPAN, packed >> 4], dim=1).reshape(-1)[:count]
    return (nibbles.to(torch.int16) + lowest).to(torch.int8).reshape(shape)
