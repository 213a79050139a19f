"""How the operands of one matrix product are quantised, by the role they play."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from fxquant.config.kinds import may_have, specs_for
from fxquant.config.operands import Role, TensorSpec
from fxquant.config.search import NoisyBias, ScaleSearch
from fxquant.config.weight_fit import WeightFit
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import OfTokens, PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.observers.operand_spec import OperandSpec

_INPUTS = (Role.ACTIVATION, Role.NORM, Role.GELU, Role.GATED)  # of linear layers and convolutions


@dataclass(frozen=True)
class LayerSpec:
    """
    How the operands of one product are quantised, by role; a role without a spec of its own uses `activation`.

    A `weight` or `activation` of None leaves that operand float. search: how calibration looks for better scales than those
    that the observers give; noise: whether a linear layer's or a patch embedding's input gets a noisy bias; fit: how the
    weight is fitted to what the product reads.

    Raises `ConfigError` for a spec that its role cannot have.
    """

    weight: TensorSpec | None = field(
        default_factory=partial(TensorSpec, signed=True, symmetric=True, granularity=PerChannel(0))
    )
    activation: TensorSpec | None = field(default_factory=TensorSpec)
    norm: TensorSpec | None = None
    gelu: OperandSpec | None = None
    gated: TensorSpec | None = None
    query: TensorSpec | None = None
    key: TensorSpec | None = None
    softmax: OperandSpec | None = None
    value: TensorSpec | None = None
    search: ScaleSearch | None = None
    noise: NoisyBias | None = None
    fit: WeightFit | None = None

    def __post_init__(self) -> None:
        for role in Role:
            value = getattr(self, role.value)
            if value is not None and not may_have(role, value):
                expected = ", ".join(spec.__name__ for spec in specs_for(role))
                raise ConfigError(f"LayerSpec.{role.value} must be a {expected} or None, got {value!r}")
            nonsense = _nonsense(role, value) if isinstance(value, TensorSpec) else None
            if nonsense:
                raise ConfigError(f"LayerSpec.{role.value}: {nonsense}")
        for role in _INPUTS if self.noise else ():
            value = getattr(self, role.value)
            if value is not None and not isinstance(value.granularity, PerTensor):
                raise ConfigError(
                    f"LayerSpec.{role.value}: a noisy bias needs one scale, PerTensor, got {value.granularity}"
                )
        for name, kind in (("search", ScaleSearch), ("noise", NoisyBias), ("fit", WeightFit)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"LayerSpec.{name} must be a {kind.__name__} or None, got {value!r}")
        if self.search is not None and self.search.clip_evenly:
            self._check_even()
        if self.fit is not None:
            self._check_fit()

    def _check_even(self) -> None:
        for role in Role:
            value = getattr(self, role.value)
            even = isinstance(value, TensorSpec) and value.signed and value.symmetric
            if role is not Role.WEIGHT and value is not None and not even:
                raise ConfigError(
                    f"LayerSpec.{role.value}: clip_evenly needs a TensorSpec with signed=True, symmetric=True, got {value!r}"
                )

    def _check_fit(self) -> None:
        weight = self.weight
        rows = weight is not None and weight.symmetric and weight.granularity == PerChannel(0) and not weight.trained
        if weight is not None and not rows:
            raise ConfigError(
                "LayerSpec.fit needs weights with a symmetric scale for each row, PerChannel(0), that is not trained, got "
                f"{weight!r}"
            )
        if self.search is not None and self.search.correct_bias:
            raise ConfigError(
                "LayerSpec.fit and a search with correct_bias=True both move the bias: use WeightFit.correction alone"
            )

    def weight_only(self) -> LayerSpec:
        """
        Return this spec with every activation left float, as in W8A16: weights are stored as codes, and products are float.

        A noisy bias goes, as it belongs to a quantised input.
        """
        activations = {role.value: None for role in Role if role is not Role.WEIGHT}
        return replace(self, **activations, noise=None)

    def spec_for(self, role: Role) -> OperandSpec | None:
        """Return the spec of an operand that plays `role`."""
        if role is Role.WEIGHT:
            return self.weight
        specific: OperandSpec | None = getattr(self, role.value)
        return specific if specific is not None else self.activation


def _nonsense(role: Role, spec: TensorSpec) -> str | None:
    """Return why no operand of `role` can be quantised by `spec`, None where one can."""
    granularity = spec.granularity
    if role not in _INPUTS and isinstance(granularity, OfTokens):
        kind = "a weight has no tokens" if role is Role.WEIGHT else "operands of attention have no scale per token"
        return f"{kind}: {type(granularity).__name__} is for the inputs of linear layers"
    if role is Role.WEIGHT and isinstance(granularity, PerHead):
        return "a weight has no heads: use PerTensor, PerChannel(0) or RowGroups(n)"
    if role is not Role.WEIGHT and isinstance(granularity, RowGroups | PerProjection):
        return f"{type(granularity).__name__} splits the rows of a weight: use PerTensor, PerChannel or PerHead"
    if role is not Role.WEIGHT and granularity == PerChannel(0):
        return "axis 0 of an activation is the batch: use PerTensor, or PerChannel(-1) for the channels of (B, N, C)"
    if role in _INPUTS and isinstance(granularity, PerHead):
        return "only query, key, softmax and value have heads: give those roles a spec of their own"
    if spec.symmetric and not spec.signed and role not in (Role.SOFTMAX, Role.GELU):
        return (
            "symmetric unsigned codes lose every negative value: use signed=True, or symmetric=False for a zero point"
        )
    return None
