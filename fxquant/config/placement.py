"""Which values of a model are quantised, where that is more than the operands of matrix products (FQ-ViT, PSAQ-ViT)."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.config.kinds import may_have, specs_for
from fxquant.config.operands import TensorSpec, Value
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import OfTokens, PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.observers.operand_spec import OperandSpec

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
    gated: OperandSpec | None = None
    pooled: OperandSpec | None = None
    logits: OperandSpec | None = None

    def __post_init__(self) -> None:
        for value in Value:
            spec = self.spec_for(value)
            if spec is not None and not may_have(value, spec):
                names = [kind.__name__ for kind in specs_for(value)]
                raise ConfigError(f"Placement.{value.value} must be a {' or '.join(names)} or None, got {spec!r}")
            if isinstance(spec, TensorSpec):
                _check_granularity(value, spec)
        if self.probabilities is not None and self.probabilities.integer_softmax:
            self._check_scores(type(self.probabilities).__name__)

    def spec_for(self, value: Value) -> OperandSpec | None:
        """Return the spec of a kind of value."""
        spec: OperandSpec | None = getattr(self, value.value)
        return spec

    def _check_scores(self, reader: str) -> None:
        """Raise `ConfigError` where a `reader` of the codes of scores, such as LogIntSoftmax, cannot read them."""
        if self.scores is None and self.biased_scores is None:
            raise ConfigError(f"Placement.probabilities: {reader} reads integers: give scores a spec as well")
        for spec in (self.scores, self.biased_scores):
            if spec is not None and not isinstance(spec.granularity, PerTensor | PerHead):
                raise ConfigError(
                    f"Placement.scores: {reader} needs one scale, or one per head, got {spec.granularity}"
                )

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
    if isinstance(granularity, OfTokens):
        raise ConfigError(
            f"Placement.{value.value}: {type(granularity).__name__} is for the inputs of linear layers: use a LayerSpec and no "
            "placement"
        )
    if spec.symmetric and not spec.signed and value is not Value.PROBABILITIES:
        raise ConfigError(
            f"Placement.{value.value}: symmetric unsigned codes lose every negative value: use signed=True, or symmetric=False"
        )
