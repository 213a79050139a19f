"""Images of the size that a model declares, for those who trace it without an example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.tracing.proof import kept

_SIDE = 224  # of most published models, for one that declares no size
_SIZES = ("img_size", "image_size")  # names of attributes and settings in timm, torchvision and transformers


def made_example(model: nn.Module) -> Tensor | None:
    """
    Return one random image ``(1, C, H, W)`` that `model` accepts, None where none was found.

    Tried are the sizes that the model, its patch embedding, its timm or its transformers config declares, and 224 pixels. The
    numbers are the same for every call.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return None
    generator = torch.Generator().manual_seed(0)
    for size in dict.fromkeys(_sizes(model)):
        image = torch.randn(1, *size, generator=generator).to(device=parameter.device, dtype=parameter.dtype)
        try:
            with kept(model), torch.no_grad():
                model(image.clone())
        except Exception:  # whatever a model raises on a size that is not its own
            continue
        return image
    return None


def _sizes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), 3)
    for module in model.modules():
        for source in (module, getattr(module, "config", None)):
            yield from (
                _of(channels, getattr(source, name, None)) for name in _SIZES if _is_size(getattr(source, name, None))
            )
        for name in ("pretrained_cfg", "default_cfg"):
            config = getattr(module, name, None)
            if isinstance(config, dict) and _is_shape(config.get("input_size")):
                yield tuple(config["input_size"])
    yield channels, _SIDE, _SIDE


def _of(channels: int, size: Any) -> tuple[int, int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _is_size(value: Any) -> bool:
    return (isinstance(value, int) and value > 0) or (_is_numbers(value) and len(value) == 2)


def _is_shape(value: Any) -> bool:
    return _is_numbers(value) and len(value) == 3


def _is_numbers(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(n, int) and n > 0 for n in value)
