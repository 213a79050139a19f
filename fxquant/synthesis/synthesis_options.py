"""The options of image synthesis."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from fxquant.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SynthesisOptions:
    """
    How images are synthesised; the defaults are those of PSAQ-ViT (Li et al., ECCV 2022).

    iterations: the length of each round.
    jitter: for each round, the largest number of pixels by which images are rolled.
    lr: the largest learning rate of Adam. None is 0.20, or 0.25 for a model with windowed attention.
    betas, eps: the other constants of Adam.
    warmup: the iterations of each round in which the learning rate rises. None is a fifth, 100 of 500.
    entropy_weight, ce_weight, tv_weight: the weights of patch-similarity entropy, cross entropy and total variation.
    bandwidth, grid_size: how the density of similarities is estimated, see `patch_entropy`.
    tv_target: the range from which the target of total variation is drawn, for 32 images of 224 x 224 pixels. For others it
    is scaled as total variation grows.
    mean, std: the normalisation of the images, one entry per channel. None is the model's own, or ImageNet's where the
    model has none.
    published: as the authors' code does, drop the first token even where it is no class token, in windows for example, and
    do not scale the target of total variation.

    Raises `ConfigError` for values that cannot be meant.
    """

    iterations: int = 500
    jitter: tuple[int, ...] = (15, 30)
    lr: float | None = None
    betas: tuple[float, float] = (0.5, 0.9)
    eps: float = 1e-8
    warmup: int | None = None
    entropy_weight: float = 1.0
    ce_weight: float = 1.0
    tv_weight: float = 0.05
    bandwidth: float = 0.01
    grid_size: int = 10
    tv_target: tuple[float, float] = (2500.0, 3000.0)
    published: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError` for impossible values."""
        _whole("iterations", self.iterations, 1)
        _whole("grid_size", self.grid_size, 2)
        if self.warmup is not None:
            _whole("warmup", self.warmup, 0)
        for limit in _entries("jitter", self.jitter):
            _whole("jitter", limit, 0)
        for name in ("bandwidth", "eps", *(("lr",) if self.lr is not None else ())):
            _number(name, getattr(self, name), positive=True)
        for name in ("entropy_weight", "ce_weight", "tv_weight"):
            _number(name, getattr(self, name))
        if max(_numbers("betas", self.betas, 2)) >= 1:
            raise ConfigError(f"betas must be below 1, got {self.betas}")
        if list(_numbers("tv_target", self.tv_target, 2)) != sorted(self.tv_target):
            raise ConfigError(f"tv_target must be a range from low to high, got {self.tv_target}")
        if not isinstance(self.published, bool):
            raise ConfigError(f"published must be true or false, got {self.published!r}")
        self._check_normalisation()

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError("mean and std belong together: give both or neither")
        if self.mean is not None and self.std is not None:
            channels = len(_numbers("mean", self.mean))
            if 0 in _numbers("std", self.std, channels):
                raise ConfigError(f"std must be positive, got {self.std}")

    @property
    def steps(self) -> int:
        """The iterations of all rounds together."""
        return self.iterations * len(self.jitter)

    @property
    def warmup_iterations(self) -> int:
        """The iterations of each round in which the learning rate rises."""
        return self.iterations // 5 if self.warmup is None else self.warmup


def make_options(given: dict[str, Any]) -> SynthesisOptions:
    """Return the options with the values `given` by name; raise `ConfigError` for an unknown name."""
    known = [field.name for field in fields(SynthesisOptions)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r} of image synthesis: expected one of {', '.join(known)}")
    return SynthesisOptions(**given)


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _number(name: str, value: object, positive: bool = False) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a finite number, not negative, got {value!r}")
    if positive and value == 0:
        raise ConfigError(f"{name} must be positive, got {value!r}")


def _entries(name: str, values: object, count: int | None = None) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or not values or (count and len(values) != count):
        raise ConfigError(f"{name} must be a tuple of {count or 'at least one'} numbers, got {values!r}")
    return values


def _numbers(name: str, values: object, count: int | None = None) -> tuple[float, ...]:
    values = _entries(name, values, count)
    for value in values:
        _number(name, value)
    return values
