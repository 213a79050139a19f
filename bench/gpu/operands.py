"""Random operands of the checks, on the device that they run on."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels.quantizer import Quantizer, Rows

DEVICE = "cuda"  # tests run the checks on the CPU
FLOATS = (torch.float32, torch.bfloat16)
# Rows, depth and outputs of layers in ViT-B, ViT-L, DeiT-S and Swin-T, and of none.
LAYERS = (
    *((1, 768, 1000), (197, 768, 2304), (1576, 3072, 768), (197, 1024, 4096), (394, 384, 1536)),
    *((3136, 48, 96), (3136, 96, 288), (784, 192, 768), (37, 56, 24), (16, 8, 8)),
)


def draw_codes(*shape: int) -> Tensor:
    """Return random int8 codes."""
    return torch.randint(-128, 128, shape, dtype=torch.int8, device=DEVICE)


def draw_layer(rows: int, depth: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return codes ``(rows, depth)``, a weight ``(outputs, depth)``, and scale and bias ``(outputs,)`` of an int8 layer."""
    scale = torch.rand(outputs, device=DEVICE) / (64 * depth)
    return draw_codes(rows, depth), draw_codes(outputs, depth), scale, torch.randn(outputs, device=DEVICE)


def draw_rows(rows: int) -> Rows:
    """Return a scale and a zero point for each of so many rows."""
    zero_point = torch.randint(-128, 128, (rows,), dtype=torch.int32, device=DEVICE)
    return torch.rand(rows, device=DEVICE), zero_point


def draw_quantizer(kind: str, noise: int | None) -> Quantizer:
    """Return a quantiser: "signed", "unsigned", "gelu" or "softmax", with noise for so many channels."""
    scale, low = torch.tensor(0.021, device=DEVICE), torch.tensor(0.17 / 127, device=DEVICE)
    added = None if noise is None else torch.randn(noise, device=DEVICE) / 50
    if kind == "signed":
        return Quantizer(scale, None, None, None, added, -128, 127)
    if kind == "unsigned":
        return Quantizer(scale, torch.tensor(117, dtype=torch.int32, device=DEVICE), None, None, added, 0, 255)
    split = torch.tensor(0.0 if kind == "gelu" else 0.17, device=DEVICE)
    return Quantizer(scale, None, low if kind == "gelu" else -low, split, added, -127, 127)
