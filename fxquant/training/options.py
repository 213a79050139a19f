"""The options of quantisation-aware training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxquant.errors import ConfigError


@dataclass(frozen=True)
class TrainingOptions:
    """
    How a prepared model is trained; the defaults are those of VVTQ's published run (Xijie Huang et al., TMLR 2024).

    epochs: the length of the training. A pass that shows `crops` crops of each image counts as that many epochs.
    batch_size: crops per step, over all ranks together.
    crops: crops of each image in a pass, where there are soft labels for several.
    lr, weight_decay, betas, eps: the constants of AdamW.
    warmup_epochs: epochs in which the learning rate rises from `warmup_lr` to `lr`. It then falls along a half cosine to
    `min_lr`.

    regulariser: whether weights are pulled to the middle of their bins. The pull grows from 0 to `regulariser_weight`.
    track_oscillations: whether to measure how many weights jump between two codes, by a moving average with
    `oscillation_momentum`.
    freeze_threshold: weights that jump more often than this, from 0 to 1, are frozen. None freezes none.
    budget: the bit operations per image, in 1e9, that learned bit widths may need. Above it, `budget_weight` times the
    square of the excess joins the loss.
    bits_ratio: the share of the epochs in which bit widths are learned.

    clip_grad: the largest norm of the gradient; None does not clip.
    ema_decay: the decay of a moving average of the model; None keeps no average.
    bf16: whether to compute in bfloat16 by autocast. Quantisers stay in float32.
    seed: decides the order of images, the crops, and the dropped paths. The rate of these is an argument of
    `fxquant.prepare_qat`, 0.1 in the published run.

    Raises `ConfigError` for values that cannot be meant.
    """

    epochs: int = 150
    batch_size: int = 512
    crops: int = 4
    lr: float = 5e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_epochs: int = 0
    warmup_lr: float = 1e-6
    min_lr: float = 0.0
    regulariser: bool = True
    regulariser_weight: float = 0.01
    track_oscillations: bool = False
    oscillation_momentum: float = 0.01
    freeze_threshold: float | None = None
    budget: float | None = None
    budget_weight: float = 1.0
    bits_ratio: float = 1.0
    clip_grad: float | None = None
    ema_decay: float | None = None
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        for name, least in _WHOLE.items():
            _whole(name, getattr(self, name), least)
        for name, positive in _NUMBERS.items():
            _number(name, getattr(self, name), positive)
        for name, closed in _SHARES.items():
            _share(name, getattr(self, name), closed)
        for name in ("regulariser", "track_oscillations", "bf16"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ConfigError(f"betas must be a tuple of two numbers, got {self.betas!r}")
        for beta in self.betas:
            _share("betas", beta)
        if self.oscillation_momentum == 0:
            raise ConfigError("oscillation_momentum must be positive, got 0")
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(f"warmup_epochs must be fewer than the {self.epochs} epochs, got {self.warmup_epochs}")


# The least value, whether it must be positive, and whether 1 is allowed; those whose default is None may be None.
_WHOLE = {"epochs": 1, "batch_size": 1, "crops": 1, "warmup_epochs": 0, "seed": 0}
_NUMBERS = {
    "lr": True,
    "eps": True,
    "weight_decay": False,
    "warmup_lr": False,
    "min_lr": False,
    "regulariser_weight": False,
    "budget_weight": False,
    "budget": True,
    "clip_grad": True,
}
_SHARES = {
    "oscillation_momentum": True,
    "freeze_threshold": False,
    "bits_ratio": True,
    "ema_decay": False,
}
_OPTIONAL = ("budget", "clip_grad", "freeze_threshold", "ema_decay")


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _number(name: str, value: object, positive: bool = False) -> None:
    if value is None and name in _OPTIONAL:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a finite number, not negative, got {value!r}")
    if positive and value == 0:
        raise ConfigError(f"{name} must be positive, got {value!r}")


def _share(name: str, value: object, closed: bool = False) -> None:
    """Raise `ConfigError` unless `value` is at least 0 and below 1, or at most 1 where `closed`."""
    _number(name, value)
    if isinstance(value, int | float) and (value > 1 or (value == 1 and not closed)):
        raise ConfigError(f"{name} must be {'at most' if closed else 'below'} 1, got {value!r}")
