"""What an image has to become before a model sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fxquant.errors import ConfigError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
_LARGEST = 65536  # pixels, or channels
_MOST_VALUES = 2**26  # of an image: a file of unknown origin may say any size
_LARGEST_CROP = 1.5  # a few published models say 1.15: images are made smaller than the input, and padded


@dataclass(frozen=True)
class DataConfig:
    """
    How images are resized, cropped and normalised, by timm's names.

    input_size: ``(C, H, W)``. mean, std: of each channel, of pixels from 0 to 1. interpolation: one of `INTERPOLATIONS`.
    crop_pct: the part of the resized image that is kept. crop_mode: "center" resizes the shorter edge and cuts the centre out,
    "squash" resizes both edges, "border" resizes the longer edge and fills the rest.

    Raises `ConfigError` for values that cannot be meant.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for impossible values."""
        size = self.input_size
        if not isinstance(size, tuple) or len(size) != 3 or not all(_is_size(n) for n in size):
            raise ConfigError(
                f"input_size must be (channels, height, width), each from 1 to {_LARGEST}, got {self.input_size!r}"
            )
        if math.prod(size) > _MOST_VALUES:
            raise ConfigError(f"input_size must be of at most {_MOST_VALUES} values, got {size}")
        for name in ("mean", "std"):
            self._check_per_channel(name, getattr(self, name))
        if min(self.std) <= 0:
            raise ConfigError(f"std must be positive, got {self.std}: images are divided by it")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"unknown interpolation {self.interpolation!r}: expected one of {', '.join(INTERPOLATIONS)}"
            )
        if self.crop_mode not in CROP_MODES:
            raise ConfigError(f"unknown crop_mode {self.crop_mode!r}: expected one of {', '.join(CROP_MODES)}")
        if not _is_number(self.crop_pct) or not 0 < self.crop_pct <= _LARGEST_CROP:
            raise ConfigError(f"crop_pct must be a fraction such as 0.875, above 0 and up to 1, got {self.crop_pct!r}")

    def _check_per_channel(self, name: str, values: object) -> None:
        channels = self.input_size[0]
        if not isinstance(values, tuple) or not all(_is_number(v) for v in values):
            raise ConfigError(f"{name} must be a tuple of finite numbers, got {values!r}")
        if len(values) != channels:
            raise ConfigError(f"{name} needs a number for each of {channels} channels, got {len(values)}: {values}")

    def changed(self, values: Mapping[str, Any]) -> DataConfig:
        """
        Return the config with other `values` by name; a single mean or std is that of all channels.

        img_size stands for the height and width of input_size, in_chans for its channels. Where the channels change, mean and
        std that are not given become the average of all channels. Raises `ConfigError` for an unknown name and for values that
        cannot be meant.
        """
        known = (*asdict(self), "img_size", "in_chans")
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigError(f"a data config has no {unknown[0]!r}: expected some of {', '.join(known)}")
        given = dict(values)
        size = _input_size(
            given.pop("input_size", self.input_size), given.pop("in_chans", None), given.pop("img_size", None)
        )
        for name in ("mean", "std"):
            given[name] = _per_channel(given.get(name), getattr(self, name), size)
        return replace(self, input_size=size, **given)

    def as_timm(self) -> dict[str, Any]:
        """Return the config as ``timm.data.create_transform`` takes it."""
        return asdict(self)

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_size))
        shown = ("interpolation", "crop_pct", "crop_mode", "mean", "std")
        return f"{size}, " + ", ".join(f"{name} {getattr(self, name)}" for name in shown)


def _input_size(size: Any, channels: Any, pixels: Any) -> Any:
    """Return the size with other channels and another height and width, as far as they are given."""
    size = tuple(size) if isinstance(size, list | tuple) else size
    if not isinstance(size, tuple) or len(size) != 3:
        return size  # which the config refuses
    edges = size[1:] if pixels is None else (pixels, pixels)
    return (size[0] if channels is None else channels, *edges)


def _per_channel(values: Any, before: tuple[float, ...], size: Any) -> Any:
    channels = size[0] if isinstance(size, tuple) and size and _is_size(size[0]) else len(before)
    if values is None:
        return before if len(before) == channels else (sum(before) / len(before),) * channels
    if _is_number(values):
        values = (values,)
    if not isinstance(values, list | tuple):
        return values
    return tuple(values) * channels if len(values) == 1 else tuple(values)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
