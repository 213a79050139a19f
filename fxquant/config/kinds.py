"""The tables of quantisers: which types of spec there are, what may have one, what it becomes, and how ranges are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxquant.config.float8 import Float8
from fxquant.config.operands import IntegerNorm, Role, TensorSpec, Value
from fxquant.numerics.granularity import PerToken
from fxquant.observers.adalog import AdaLogGELU, AdaLogSoftmax
from fxquant.observers.base import ObserverOptions
from fxquant.observers.binary import BinaryWeightStep
from fxquant.observers.ema import EMA
from fxquant.observers.learned_step import LearnedStep, LearnedWeightStep
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.minmax import MinMax
from fxquant.observers.omse import OMSE
from fxquant.observers.operand_spec import OperandSpec
from fxquant.observers.percentile import Percentile
from fxquant.observers.power_of_two import PowerOfTwoFactor
from fxquant.observers.twin import TwinGELU, TwinSoftmax
from fxquant.ops import (
    dequantize,
    dequantize_float8,
    dequantize_log2,
    dequantize_tokens,
    dequantize_twin,
    fake_quantize_adalog,
    fake_quantize_summed_twin,
    integer_layer_norm,
    log_int_softmax,
    quantize,
    quantize_adalog,
    quantize_float8,
    quantize_float8_tokens,
    quantize_log2,
    quantize_tokens,
    quantize_twin,
)

Operator = Callable[..., Tensor]


@dataclass(frozen=True)
class Kind:
    """
    What the rest of fxquant has to know of one type of spec.

    quantize: the operator from values to codes. dequantize: the operator from codes to float32 values. simulation: one
    operator in place of both, for a spec that has no codes. Beside the tensor that it reads, each is called with those of
    `Observer.operator_arguments` that it has a parameter for. per_token: the two where the granularity is `PerToken`; the first
    gives scales, and zero points where there are some, as well, which the second reads. roles: which operands of a `LayerSpec`
    may be quantised so. values: which values of a `Placement`.
    """

    quantize: Operator
    dequantize: Operator
    roles: tuple[Role, ...] = ()
    values: tuple[Value, ...] = ()
    simulation: Operator | None = None
    per_token: tuple[Callable[..., Any], Operator] | None = None

    def operators(self, spec: OperandSpec) -> tuple[Callable[..., Any], ...]:
        """Return what `spec` becomes in a graph, in order."""
        if self.per_token is not None and isinstance(spec.granularity, PerToken):
            return self.per_token
        if spec.has_codes or self.simulation is None:
            return self.quantize, self.dequantize
        return (self.simulation,)


# LogIntSoftmax and IntegerNorm read codes, which only a `Placement` gives them.
KINDS: dict[type[OperandSpec], Kind] = {
    TensorSpec: Kind(quantize, dequantize, tuple(Role), tuple(Value), per_token=(quantize_tokens, dequantize_tokens)),
    IntegerNorm: Kind(integer_layer_norm, dequantize, (), (Value.NORM,)),
    TwinGELU: Kind(quantize_twin, dequantize_twin, (Role.GELU,), (Value.GELU,)),
    TwinSoftmax: Kind(
        quantize_twin, dequantize_twin, (Role.SOFTMAX,), (Value.PROBABILITIES,), fake_quantize_summed_twin
    ),
    AdaLogGELU: Kind(quantize_adalog, dequantize, (Role.GELU,), (Value.GELU,), fake_quantize_adalog),
    AdaLogSoftmax: Kind(quantize_adalog, dequantize, (Role.SOFTMAX,), (Value.PROBABILITIES,), fake_quantize_adalog),
    Log2: Kind(quantize_log2, dequantize_log2, (Role.SOFTMAX,), (Value.PROBABILITIES,)),
    LogIntSoftmax: Kind(log_int_softmax, dequantize_log2, (), (Value.PROBABILITIES,)),
    Float8: Kind(
        *(quantize_float8, dequantize_float8),
        (Role.WEIGHT, Role.ACTIVATION, Role.NORM, Role.GELU, Role.GATED),
        per_token=(quantize_float8_tokens, dequantize_float8),
    ),
}

# What the observer of a TensorSpec may be, where the graph is to be saved; the first stands for all others once a graph is
# converted and nothing observes any more.
OBSERVERS: list[type[ObserverOptions]] = [
    ObserverOptions,
    MinMax,
    EMA,
    Percentile,
    OMSE,
    PowerOfTwoFactor,
    LearnedStep,
    LearnedWeightStep,
    BinaryWeightStep,
]


def kind_of(spec: OperandSpec) -> Kind:
    """Return the row of the table for a spec of any type in it, or derived from one."""
    return next(KINDS[each] for each in type(spec).__mro__ if each in KINDS)


def specs_for(place: Role | Value) -> tuple[type[OperandSpec], ...]:
    """Return the types of spec that an operand or a value of the kind `place` may have."""
    return tuple(spec for spec, kind in KINDS.items() if place in (*kind.roles, *kind.values))


def may_have(place: Role | Value, spec: object) -> bool:
    """Say whether an operand or a value of the kind `place` may have this `spec`; False for what is no spec at all."""
    row = next((each for each in type(spec).__mro__ if each in KINDS), None)
    return row in specs_for(place)


def operators() -> set[Callable[..., Any]]:
    """Return all operators that stand for a quantised operand, or give its codes."""
    per_token = {kind.per_token[0] for kind in KINDS.values() if kind.per_token is not None}
    return {kind.quantize for kind in KINDS.values()} | per_token | dequantizers()


def dequantizers() -> set[Operator]:
    """Return the operators whose result is a quantised operand."""
    simulations = {kind.simulation for kind in KINDS.values() if kind.simulation is not None}
    per_token = {kind.per_token[1] for kind in KINDS.values() if kind.per_token is not None}
    return {kind.dequantize for kind in KINDS.values()} | simulations | per_token
