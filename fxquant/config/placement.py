"""Which values of a model are quantised, where that is more than the operands of matrix products (FQ-ViT, PSAQ-ViT)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fxquant.config.operands import IntegerNorm, OperandSpec, TensorSpec
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.twin import TwinGELU, TwinSoftmax


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
    GELU = "gelu"
    POOLED = "pooled"
    LOGITS = "logits"  # after the head


_SPECIAL: dict[Value, tuple[type, ...]] = {
    Value.PROBABILITIES: (TwinSoftmax, Log2),
    Value.GELU: (TwinGELU,),
}
_HEADS = (Value.SCORES, Value.BIASED_SCORES, Value.PROBABILITIES, Value.CONTEXT)


@dataclass(frozen=True)
class Placement:
    """
    One spec per kind of value, None where it stays float; products read their activations from these values.

    Each value is rounded to its codes once, whoever reads it: a product, a norm or a sum. `LogIntSoftmax` probabilities need
    quantised scores, and an `IntegerNorm` a quantised input. Raises `ConfigError` for a spec that does not fit its value.
    """

    image: OperandSpec | None = None
    patches: OperandSpec | None = None
    concat: OperandSpec | None = None
    position: OperandSpec | None = None
    embedding: OperandSpec | None = None
    norm: OperandSpec | None = None
    linear: OperandSpec | None = None
    merged: OperandSpec | None = None
    scores: OperandSpec | None = None
    score_bias: OperandSpec | None = None
    biased_scores: OperandSpec | None = None
    probabilities: OperandSpec | None = None
    context: OperandSpec | None = None
    residual: OperandSpec | None = None
    gelu: OperandSpec | None = None
    pooled: OperandSpec | None = None
    logits: OperandSpec | None = None

    def __post_init__(self) -> None:
        for value in Value:
            spec = self.spec_for(value)
            if isinstance(spec, IntegerNorm) and value is not Value.NORM:
                raise ConfigError(f"Placement.{value.value} comes from no layer norm: use a TensorSpec, got {spec!r}")
            if spec is None or isinstance(spec, _SPECIAL.get(value, ())):
                pass
            elif not isinstance(spec, TensorSpec):
                names = [kind.__name__ for kind in (TensorSpec, *_SPECIAL.get(value, ()))]
                raise ConfigError(f"Placement.{value.value} must be a {' or '.join(names)} or None, got {spec!r}")
            else:
                _check_granularity(value, spec)
        if isinstance(self.probabilities, LogIntSoftmax) and self.scores is None and self.biased_scores is None:
            raise ConfigError("Placement.probabilities: LogIntSoftmax reads integers: give scores a spec as well")
        for spec in (self.scores, self.biased_scores) if isinstance(self.probabilities, LogIntSoftmax) else ():
            if spec is not None and not isinstance(spec.granularity, PerTensor | PerHead):
                raise ConfigError(
                    f"Placement.scores: LogIntSoftmax needs one scale, or one per head, got {spec.granularity}"
                )

    def spec_for(self, value: Value) -> OperandSpec | None:
        """Return the spec of a kind of value."""
        spec: OperandSpec | None = getattr(self, value.value)
        return spec

    @property
    def opens_attention(self) -> bool:
        """Whether values inside attention are quantised, so that its fused kernel has to be opened."""
        inside = (Value.SCORES, Value.SCORE_BIAS, Value.BIASED_SCORES, Value.PROBABILITIES)
        return any(self.spec_for(value) is not None for value in inside)


def _check_granularity(value: Value, spec: TensorSpec) -> None:
    """Raise `ConfigError` for codes that no value of this kind can have."""
    granularity = spec.granularity
    if isinstance(granularity, PerHead) and value not in _HEADS:
        raise ConfigError(f"Placement.{value.value}: this value has no heads: use PerTensor or PerChannel(-1)")
    if isinstance(granularity, RowGroups | PerProjection) or granularity == PerChannel(0):
        raise ConfigError(
            f"Placement.{value.value}: {granularity} is for the rows of a weight: use PerTensor, PerChannel(-1) or PerHead"
        )
    if spec.symmetric and not spec.signed and value is not Value.PROBABILITIES:
        raise ConfigError(
            f"Placement.{value.value}: symmetric unsigned codes lose every negative value: use signed=True, or symmetric=False"
        )
