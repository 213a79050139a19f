"""Options of the searches that calibration runs: scales (PTQ4ViT, EasyQuant) and noisy bias (NoisyQuant)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from fxquant.errors import ConfigError


class Metric(Enum):
    """By what the output y' of a quantised product is compared with the float output y; g is the loss's gradient at y."""

    COSINE = "cosine"  # of y and y' over the features of a token
    PEARSON = "pearson"  # the same after removing their means
    L1 = "l1"  # |y - y'|
    L2 = "l2"  # (y - y')^2
    LINEAR_WEIGHTED_L2 = "linear_weighted_l2"  # |y| (y - y')^2
    SQUARE_WEIGHTED_L2 = "square_weighted_l2"  # (y (y - y'))^2
    HESSIAN = "hessian"  # (g (y - y'))^2
    FISHER = "fisher"  # a_t b_o (y - y')^2 with a_t b_o ~ g^2, factored over tokens t and channels o


class Gradient(Enum):
    """Of which loss g is the gradient."""

    # -log p(y) for a y that the model itself predicts, so that the squared gradient is the Fisher information: y drawn from a
    # Gaussian around the outputs (logits or any other), which weighs all images alike, or a class drawn from the softmax,
    # which hardly counts the images that the model is sure of.
    SAMPLED_OUTPUT = "sampled_output"
    SAMPLED_LABEL = "sampled_label"
    PREDICTION = "prediction"  # KL(p || p), as published: zero but for rounding


class Inputs(Enum):
    """What a product reads while its scales are searched."""

    FLOAT = "float"  # what it reads in the float model: products do not depend on each other
    QUANTISED = "quantised"  # what the quantised products before it give


@dataclass(frozen=True)
class ScaleSearch:
    """
    Search the scales of a product's operands, one operand after the other, for the least error of its output.

    The candidates are the scale that the observer gives, times ``smallest (largest / smallest)^(i / steps)`` for i in
    0..steps-1, or with `geometric` off ``smallest + i (largest - smallest) / steps`` as in the published codes; they do not
    move with the scale found.

    weights, inputs: whether these are searched; inputs come first, as they have the outliers, unless `weights_first`, as in
    PTQ4ViT's code. rounds: how often both are searched in turn; the search ends early when nothing changes. inputs_from: see
    `Inputs`. weight_error: compare with the product of the float weight; off, the quantised weight stands on both sides.
    max_rows: at most so many tokens of all calibration images take part, drawn at random; None: all. coarse: score part of the
    grid and then what lies around its best candidates, not all of it. correct_bias: also move the bias by the mean error left.
    clip_evenly: score an input's candidates with both ends clipped alike, at the largest code, as in NoisyQuant's code; what is
    quantised by the scale found may still use the smallest code. Only for signed symmetric inputs.
    """

    metric: Metric = Metric.L2
    smallest: float = 0.01
    largest: float = 1.2
    steps: int = 100
    rounds: int = 3
    weights: bool = True
    inputs: bool = True
    weights_first: bool = False
    inputs_from: Inputs = Inputs.FLOAT
    weight_error: bool = True
    gradient: Gradient = Gradient.SAMPLED_OUTPUT
    max_rows: int | None = 4096
    coarse: bool = True
    geometric: bool = True
    correct_bias: bool = False
    clip_evenly: bool = False

    def __post_init__(self) -> None:
        _check_types(self, metric=Metric, inputs_from=Inputs, gradient=Gradient)
        _check_types(
            self,
            weights=bool,
            inputs=bool,
            weights_first=bool,
            weight_error=bool,
            coarse=bool,
            geometric=bool,
            correct_bias=bool,
            clip_evenly=bool,
        )
        _check_counts(self, "steps", "rounds")
        if self.max_rows is not None:
            _check_counts(self, "max_rows")
        for name, value in (("smallest", self.smallest), ("largest", self.largest)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise ConfigError(f"ScaleSearch.{name} must be a finite number, got {value!r}")
        if not 0 < self.smallest < self.largest:
            raise ConfigError(f"expected 0 < smallest < largest, got {self.smallest!r} and {self.largest!r}")

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The factors of the initial scale that are tried."""
        if self.geometric:
            ratio = self.largest / self.smallest
            return tuple(self.smallest * ratio ** (i / self.steps) for i in range(self.steps))
        width = self.largest - self.smallest
        return tuple(self.smallest + i * width / self.steps for i in range(self.steps))

    @property
    def needs_gradient(self) -> bool:
        """Whether the loss's gradient is part of the metric."""
        return self.metric in (Metric.HESSIAN, Metric.FISHER)


class Noise(Enum):
    """How the noise of a channel is drawn, in units of the scale."""

    UNIFORM = "uniform"  # on [-1, 1], as in the paper
    NORMAL = "normal"  # 2 n - 1 with n standard normal, as in the published code
    FITTED = "fitted"  # not drawn: each channel's own best shift


@dataclass(frozen=True)
class NoisyBias:
    """
    Add ``N = mean + range * noise`` to each channel of an input before it is quantised and take ``W N`` off the bias.

    Both are searched for the least error of the output: the mean over ``k / mean_steps`` scales, k = -mean_steps ..
    mean_steps - 1, then the range over ``k / range_steps``, k = 0 .. 2 range_steps - 1. mean, range: False leaves that
    part of N out.
    """

    noise: Noise = Noise.UNIFORM
    mean: bool = True
    range: bool = True
    mean_steps: int = 200
    range_steps: int = 1000
    coarse: bool = True

    def __post_init__(self) -> None:
        _check_types(self, noise=Noise, mean=bool, range=bool, coarse=bool)
        _check_counts(self, "mean_steps", "range_steps")
        if not self.mean and not self.range:
            raise ConfigError("NoisyBias needs mean=True or range=True; for neither, leave it out")


def _check_types(options: object, **types: type) -> None:
    for name, kind in types.items():
        value = getattr(options, name)
        if not isinstance(value, kind):
            wanted = f"one of {', '.join(map(str, kind))}" if issubclass(kind, Enum) else "True or False"
            raise ConfigError(f"{type(options).__name__}.{name} must be {wanted}, got {value!r}")


def _check_counts(options: object, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{type(options).__name__}.{name} must be a whole number of at least 1, got {value!r}")
