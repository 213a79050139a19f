"""Several codes to a byte: how weights of four bits and fewer lie in a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.errors import CheckpointError

WIDTHS = (1, 2, 4)  # bits that divide a byte


@dataclass(frozen=True)
class Packing:
    """How int8 codes lie in a file: ``lowest + step * n``, with each n in `bits` bits."""

    lowest: int
    bits: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS or not -128 <= self.lowest <= 127 or not 1 <= self.step <= 255:
            raise CheckpointError(f"expected a packing of int8 codes to {WIDTHS} bits, found {self}")


def packing_of(codes: Tensor) -> Packing | None:
    """Return the narrowest packing that holds a tensor of int8 codes, None where it would need more than four bits."""
    if codes.dtype is not torch.int8 or codes.numel() == 0:
        return None
    lowest, highest = (int(v) for v in torch.aminmax(codes))
    span = highest - lowest
    if bool(((codes == lowest) | (codes == highest)).all()):
        return Packing(lowest, 1, max(span, 1))
    bits = next((width for width in WIDTHS if span < 2**width), None)
    return None if bits is None else Packing(lowest, bits)


def pack(codes: Tensor, packing: Packing) -> Tensor:
    """Return int8 `codes` of any shape as uint8 of one axis; the first code of a byte lies in its lowest bits."""
    per_byte = 8 // packing.bits
    parts = ((codes.reshape(-1).to(torch.int16) - packing.lowest) // packing.step).to(torch.uint8)
    parts = torch.cat([parts, parts.new_zeros(-len(parts) % per_byte)]).reshape(-1, per_byte)
    packed = parts[:, 0].clone()
    for index in range(1, per_byte):
        packed |= parts[:, index] << (index * packing.bits)
    return packed


def unpack(packed: Tensor, packing: Packing, shape: tuple[int, ...]) -> Tensor:
    """Return the int8 codes of `shape` that `pack` took; raise `CheckpointError` where `packed` holds another number."""
    count, per_byte = torch.Size(shape).numel(), 8 // packing.bits
    if packed.shape != (-(-count // per_byte),):
        raise CheckpointError(f"packed codes of shape {tuple(packed.shape)} do not unpack to shape {shape}")
    mask = 2**packing.bits - 1
    parts = torch.stack([packed >> (index * packing.bits) & mask for index in range(per_byte)], dim=1)
    codes = parts.reshape(-1)[:count].to(torch.int16) * packing.step + packing.lowest
    if count and int(codes.max()) > 127:
        raise CheckpointError(f"packed codes go up to {int(codes.max())}, int8 holds 127")
    return codes.to(torch.int8).reshape(shape)
