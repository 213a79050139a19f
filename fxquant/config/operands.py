"""How one operand of a matrix product, or one value, is quantised."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fxquant.errors import ConfigError
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import Granularity, OfTokens, OutlierTokens, PerTensor, PerToken
from fxquant.observers.base import Observer, ObserverOptions
from fxquant.observers.minmax import MinMax
from fxquant.observers.operand_spec import OperandSpec
from fxquant.observers.outlier_tokens import OutlierTokensObserver
from fxquant.observers.per_token import PerTokenObserver


def check_bool(name: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")


class Role(Enum):
    """What an operand is, found from the data flow."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    NORM = "norm"  # comes from a layer norm or RMS norm
    GELU = "gelu"  # comes from GELU or a function of its shape, such as SiLU
    GATED = "gated"  # the product of an activation function's result and another value, as in SwiGLU
    QUERY = "query"
    KEY = "key"
    SOFTMAX = "softmax"
    VALUE = "value"


class Value(Enum):
    """What a value in a transformer is, found from the data flow; `fxquant.graph.values` finds them."""

    IMAGE = "image"
    PATCHES = "patches"  # what the patch embedding gives
    CONCAT = "concat"  # the tokens with the class token
    POSITION = "position"  # the embedding of positions, a constant
    EMBEDDING = "embedding"  # tokens plus positions
    NORM = "norm"  # after layer norm
    LINEAR = "linear"  # after a linear layer that is none of the two below, unless GELU reads it
    MERGED = "merged"  # after a linear layer whose result a layer norm reads, as where patches are merged
    SCORES = "scores"  # queries times keys, scaled
    SCORE_BIAS = "score_bias"  # the relative position bias, a constant
    BIASED_SCORES = "biased_scores"  # their sum, before any mask of windows
    PROBABILITIES = "probabilities"
    CONTEXT = "context"  # probabilities times values
    RESIDUAL = "residual"  # a sum of two computed values
    GELU = "gelu"  # after GELU or a function of its shape
    GATED = "gated"  # the product in a gated MLP
    POOLED = "pooled"
    LOGITS = "logits"  # after the head


@dataclass(frozen=True)
class TensorSpec(Codes, OperandSpec):
    """
    How one operand is quantised.

    bits: 2..8. signed: codes ``[-2^(b-1), 2^(b-1) - 1]`` rather than ``[0, 2^b - 1]``. symmetric: the zero point is 0.
    granularity: which values share a scale. observer: how the range is found, such as ``MinMax()``. narrow: signed codes
    without the smallest, as in ``[-127, 127]``.

    Raises `ConfigError` for a value of the wrong type or range, and where the observer cannot find such a range.
    """

    observer: ObserverOptions = MinMax()
    int8_products = True

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.granularity, Granularity):
            raise ConfigError(
                "granularity must be PerTensor, PerChannel, PerToken, OutlierTokens, PerHead, RowGroups or PerProjection, "
                f"got {self.granularity!r}"
            )
        if not isinstance(self.observer, ObserverOptions):
            raise ConfigError(f"observer must be observer options such as MinMax(), got {self.observer!r}")
        for name in ("signed", "symmetric", "narrow"):
            check_bool(f"TensorSpec.{name}", getattr(self, name))
        if self.narrow and not self.signed:
            raise ConfigError("narrow leaves out the smallest of the signed codes: use it with signed=True")
        if isinstance(self.granularity, OfTokens) and type(self.observer) not in (ObserverOptions, MinMax):
            raise ConfigError(
                f"{type(self.granularity).__name__} takes the whole range of each token: use MinMax(), got {self.observer!r}"
            )
        self.observer.check(self)

    @property
    def trained(self) -> bool:
        """Whether the quantiser is trained with the model."""
        return self.observer.trained

    @property
    def learns_step(self) -> bool:
        """Whether its scale is trained with the model."""
        return self.observer.learns_step

    def build(self, name: str) -> Observer:
        """Return a fresh observer for this spec; `name` is the operand it will be named by in errors."""
        if isinstance(self.granularity, PerToken):
            return PerTokenObserver(self, name)
        if isinstance(self.granularity, OutlierTokens):
            return OutlierTokensObserver(self, name)
        return self.observer.build(self, name)


@dataclass(frozen=True)
class IntegerNorm(TensorSpec):
    """
    How the output of a layer norm is quantised where the norm itself is to be computed on integers.

    Its input has to be quantised too, with one scale or with power-of-two factors: see `Placement.residual`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.granularity, PerTensor):
            raise ConfigError(f"IntegerNorm needs one scale, PerTensor, got {self.granularity}")
