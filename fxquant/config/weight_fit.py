"""Options of the closed forms by which calibration fits weights: ridge, clipping, rounding and output correction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from fxquant.config.search import Inputs
from fxquant.errors import ConfigError


class Rounding(Enum):
    """How weights become codes."""

    NEAREST = "nearest"
    GPTQ = "gptq"  # column by column, each error made up for by the columns that follow; GPTAQ where asymmetry is not 0
    ERQ = "erq"  # half of the remaining columns at a time, refined within the half, made up for by the other half


class Correction(Enum):
    """What is corrected of a product's output in closed form; it costs nothing at run time."""

    BIAS = "bias"  # its mean
    AFFINE = (
        "affine"  # its mean and its size, a factor for each output channel that goes into the scale of the weight's row
    )


@dataclass(frozen=True)
class WeightFit:
    """
    Fit the weight of a product to what the product reads during calibration.

    In the order in which they are done:

    ridge: first move the float weights so that they undo the error of the quantised input, by ridge regression (ERQ). Each
    number is a penalty in units of the mean second moment of the input's channels. Of several, the one that predicts the
    output of held-out images best is used, and none where none predicts it better than the weight as it is.
    clip: shrink the scale of each row to the least squared error of its weights, weighed by the second moments.
    rounding: see `Rounding`; block, act_order and asymmetry are GPTQ's: columns whose errors are passed on at once, whether the
    columns of largest second moment come first, and how much of the error of the input is made up for too (GPTAQ's alpha).
    damping: added to the second moments, in units of their mean, where errors are passed on.
    correction: see `Correction`; with one, moments are taken about the mean, which the bias then makes up for.

    inputs_from: what the product reads, see `Inputs`; QUANTISED is what the fitted products before it give. What it is compared
    with is always the float model.

    Raises `ConfigError` for a value of the wrong type or range.
    """

    rounding: Rounding = Rounding.GPTQ
    damping: float = 0.01
    act_order: bool = True
    asymmetry: float = 0.0
    block: int = 128
    ridge: tuple[float, ...] = ()
    clip: bool = False
    correction: Correction | None = Correction.BIAS
    inputs_from: Inputs = Inputs.QUANTISED

    def __post_init__(self) -> None:
        self._check_types()
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise ConfigError(f"WeightFit.block must be a whole number of at least 1, got {self.block!r}")
        for name, least in (("damping", "above 0"), ("asymmetry", "of at least 0")):
            value = getattr(self, name)
            if not _is_number(value) or value < 0 or (name == "damping" and value == 0):
                raise ConfigError(f"WeightFit.{name} must be a finite number {least}, got {value!r}")
        if not isinstance(self.ridge, tuple) or not all(_is_number(kappa) and kappa > 0 for kappa in self.ridge):
            raise ConfigError(f"WeightFit.ridge must be a tuple of finite numbers above 0, got {self.ridge!r}")
        if self.ridge and self.correction is None:
            raise ConfigError("a ridge moves the bias with the weights: use correction=Correction.BIAS or AFFINE")
        if self.asymmetry and self.rounding is not Rounding.GPTQ:
            raise ConfigError(f"asymmetry is a part of Rounding.GPTQ, and the rounding is {self.rounding}: use 0")

    def _check_types(self) -> None:
        for name, kind in (("rounding", Rounding), ("inputs_from", Inputs), ("correction", Correction)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (name == "correction" and value is None):
                raise ConfigError(f"WeightFit.{name} must be one of {', '.join(map(str, kind))}, got {value!r}")
        for name in ("act_order", "clip"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"WeightFit.{name} must be True or False, got {getattr(self, name)!r}")

    @property
    def centred(self) -> bool:
        """Whether moments are taken about the mean, as the bias makes up for what the mean does."""
        return self.correction is not None

    @property
    def holds_out(self) -> bool:
        """Whether something is chosen by what it does to images that it was not fitted to."""
        return len(self.ridge) > 1

    @property
    def compares(self) -> bool:
        """Whether it needs the moments of what the float product reads with what the quantised one does."""
        return bool(self.ridge) or self.asymmetry > 0 or self.correction is Correction.AFFINE


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value)
