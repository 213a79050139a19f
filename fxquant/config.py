"""
Configuration: frozen value types that say how each operand of each matrix product is quantised.

`TensorSpec` describes one operand, `LayerSpec` one product (an operand may have its own spec by the role it plays),
`QuantConfig` the whole model. A config is never changed: every ``set_*`` returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import matmul
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.errors import ConfigError
from fxquant.granularity import Granularity, PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.numerics import code_range
from fxquant.observers.base import Observer, ObserverOptions
from fxquant.observers.minmax import MinMax
from fxquant.search import NoisyBias, ScaleSearch
from fxquant.twin import TwinGELU, TwinSoftmax

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")


class Role(Enum):
    """What an operand is, found from the data flow."""

    WEIGHT = "weight"
    ACTIVATION = "activation"
    NORM = "norm"  # comes from a layer norm
    GELU = "gelu"  # comes from GELU
    QUERY = "query"
    KEY = "key"
    SOFTMAX = "softmax"
    VALUE = "value"


@dataclass(frozen=True)
class TensorSpec:
    """
    How one operand is quantised.

    bits: 2..8. signed: codes ``[-2^(b-1), 2^(b-1) - 1]`` rather than ``[0, 2^b - 1]``. symmetric: the zero point is 0.
    observer: frozen options of the observer that finds the range. narrow: signed codes go without the smallest, as in
    ``[-127, 127]``.

    Raises `ConfigError` for a value of the wrong type or range, and where the observer cannot find such a range.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    granularity: Granularity = PerTensor()
    observer: ObserverOptions = MinMax()
    narrow: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.granularity, Granularity):
            raise ConfigError(
                "granularity must be PerTensor, PerChannel, PerHead, RowGroups or PerProjection, got "
                f"{self.granularity!r}"
            )
        if not isinstance(self.observer, ObserverOptions):
            raise ConfigError(f"observer must be observer options such as MinMax(), got {self.observer!r}")
        for name in ("signed", "symmetric", "narrow"):
            _check_bool(f"TensorSpec.{name}", getattr(self, name))
        if self.narrow and not self.signed:
            raise ConfigError("narrow leaves out the smallest of the signed codes: use it with signed=True")
        self.observer.check(self)

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return code_range(self.bits, self.signed)[0] + self.narrow

    @property
    def qmax(self) -> int:
        """Largest code."""
        return code_range(self.bits, self.signed)[1]

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    def build(self, name: str) -> Observer:
        """Return a fresh observer for this spec; `name` is the operand it will be named by in errors."""
        return self.observer.build(self, name)


OperandSpec = TensorSpec | TwinGELU | TwinSoftmax


@dataclass(frozen=True)
class LayerSpec:
    """
    How the operands of one product are quantised, by role; a role without a spec of its own uses `activation`.

    A `weight` or `activation` of None leaves that operand float. search: how calibration looks for better scales than those
    that the observers give; noise: whether a linear layer's or a patch embedding's input gets a noisy bias.

    Raises `ConfigError` for a spec that its role cannot have.
    """

    weight: TensorSpec | None = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(0))
    activation: TensorSpec | None = TensorSpec()
    norm: TensorSpec | None = None
    gelu: TensorSpec | TwinGELU | None = None
    query: TensorSpec | None = None
    key: TensorSpec | None = None
    softmax: TensorSpec | TwinSoftmax | None = None
    value: TensorSpec | None = None
    search: ScaleSearch | None = None
    noise: NoisyBias | None = None

    def __post_init__(self) -> None:
        for role in Role:
            value = getattr(self, role.value)
            twin = {Role.GELU: TwinGELU, Role.SOFTMAX: TwinSoftmax}.get(role)
            if twin is not None and isinstance(value, twin):
                continue
            if value is not None and not isinstance(value, TensorSpec):
                expected = f"TensorSpec, {twin.__name__}" if twin else "TensorSpec"
                raise ConfigError(f"LayerSpec.{role.value} must be a {expected} or None, got {value!r}")
            nonsense = value and _nonsense(role, value)
            if nonsense:
                raise ConfigError(f"LayerSpec.{role.value}: {nonsense}")
        for role in (Role.ACTIVATION, Role.NORM, Role.GELU) if self.noise else ():
            value = getattr(self, role.value)
            if value is not None and not isinstance(value.granularity, PerTensor):
                raise ConfigError(
                    f"LayerSpec.{role.value}: a noisy bias needs one scale, PerTensor, got {value.granularity}"
                )
        for name, kind in (("search", ScaleSearch), ("noise", NoisyBias)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"LayerSpec.{name} must be a {kind.__name__} or None, got {value!r}")

    def spec_for(self, role: Role) -> OperandSpec | None:
        """Return the spec of an operand that plays `role`."""
        if role is Role.WEIGHT:
            return self.weight
        specific: OperandSpec | None = getattr(self, role.value)
        return specific if specific is not None else self.activation


def _nonsense(role: Role, spec: TensorSpec) -> str | None:
    """Return why no operand of `role` can be quantised by `spec`, None where one can."""
    granularity = spec.granularity
    if role is Role.WEIGHT and isinstance(granularity, PerHead):
        return "a weight has no heads: use PerTensor, PerChannel(0) or RowGroups(n)"
    if role is not Role.WEIGHT and isinstance(granularity, RowGroups | PerProjection):
        return f"{type(granularity).__name__} splits the rows of a weight: use PerTensor, PerChannel or PerHead"
    if role is not Role.WEIGHT and granularity == PerChannel(0):
        return "axis 0 of an activation is the batch: use PerTensor, or PerChannel(-1) for the channels of (B, N, C)"
    if role in (Role.ACTIVATION, Role.NORM, Role.GELU) and isinstance(granularity, PerHead):
        return "only query, key, softmax and value have heads: give those roles a spec of their own"
    if spec.symmetric and not spec.signed and role not in (Role.SOFTMAX, Role.GELU):
        return (
            "symmetric unsigned codes lose every negative value: use signed=True, or symmetric=False for a zero point"
        )
    return None


OPERATORS: dict[Any, str] = {
    nn.Linear: "linear",
    F.linear: "linear",
    "linear": "linear",
    nn.Conv2d: "conv2d",
    F.conv2d: "conv2d",
    torch.conv2d: "conv2d",
    "conv2d": "conv2d",
    torch.matmul: "matmul",
    matmul: "matmul",
    torch.bmm: "matmul",
    "bmm": "matmul",
    "matmul": "matmul",
    F.scaled_dot_product_attention: "attention",
    "attention": "attention",
}


class Scope(Enum):
    """What the key of an override is; the strongest comes first."""

    MODULE_NAME = "module_name"
    MODULE_NAME_REGEX = "module_name_regex"
    OBJECT_TYPE = "object_type"


@dataclass(frozen=True)
class Override:
    """One exception to the global spec; a `spec` of None leaves the products that match float."""

    scope: Scope
    key: str
    spec: LayerSpec | None

    def __post_init__(self) -> None:
        if self.spec is not None and not isinstance(self.spec, LayerSpec):
            raise ConfigError(f"expected a LayerSpec or None (leave float), got {self.spec!r}")
        if not isinstance(self.key, str) or not self.key:
            raise ConfigError(f"set_{self.scope.value} expects a name such as 'blocks.0.attn.qkv', got {self.key!r}")

    def __str__(self) -> str:
        return f"{self.scope.value} {self.key!r}"

    def matches(self, operator: str, module: str) -> bool:
        """Say whether this override applies to a product of `operator` inside the module path `module`."""
        if self.scope is Scope.OBJECT_TYPE:
            return operator == self.key
        if self.scope is Scope.MODULE_NAME_REGEX:
            return re.match(self.key, module) is not None
        return module == self.key or module.startswith(self.key + ".")

    def names(self, operator: str, module: str) -> bool:
        """Say whether this override is about the operator or the very module `module`, not about a module around it."""
        around = module.rpartition(".")[0]
        by_type = self.scope is Scope.OBJECT_TYPE
        return self.matches(operator, module) and (by_type or not self.matches(operator, around))


@dataclass(frozen=True)
class QuantConfig:
    """
    How a model is quantised: one spec for all, switches for its parts, and overrides.

    Overrides mean what they mean in ``torch.ao.quantization.QConfigMapping``: one by module name beats one by regular
    expression, which beats one by operator type, which beats the global spec. Of several module names the longest decides,
    of several expressions the first one set. Here each method returns a new config, and an override that no product of the
    model matches is an error.

    `patch_embed`, `head` and `attention` switch those products on or off. An override by name or expression beats
    `patch_embed` and `head`. The products of attention come on where an override names them: by operator type, or by the
    module that computes them and not one around it (``blocks.0.attn`` or ``.*attn``; not ``blocks.0`` or ``blocks.*``).

    float_dtype: what is not int8, the residual stream, norms and attention, is computed in it; None: in the model's own dtype.
    """

    layer: LayerSpec | None = field(default_factory=LayerSpec)
    patch_embed: bool = True
    head: bool = True
    attention: bool = False
    overrides: tuple[Override, ...] = ()
    float_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.float_dtype not in (None, *FLOAT_DTYPES):
            raise ConfigError(f"QuantConfig.float_dtype must be a float dtype or None, got {self.float_dtype!r}")
        if self.layer is not None and not isinstance(self.layer, LayerSpec):
            raise ConfigError(f"QuantConfig.layer must be a LayerSpec or None, got {self.layer!r}")
        for name in ("patch_embed", "head", "attention"):
            _check_bool(f"QuantConfig.{name}", getattr(self, name))

    def set_global(self, spec: LayerSpec | None) -> QuantConfig:
        """Return a config whose products without an override use `spec` (None: stay float)."""
        return replace(self, layer=spec)

    def set_object_type(
        self, object_type: type[nn.Module] | Callable[..., Any] | str, spec: LayerSpec | None
    ) -> QuantConfig:
        """
        Return a config in which products of an operator such as ``nn.Linear`` or ``torch.matmul`` use `spec`.

        All spellings of an operator are one: ``nn.Linear`` covers ``F.linear``. Raises `ConfigError` for an operator that is
        no matrix product.
        """
        if not isinstance(object_type, Hashable) or object_type not in OPERATORS:
            known = ", ".join(sorted(set(OPERATORS.values())))
            raise ConfigError(f"{object_type!r} is not a matrix product fxquant quantises; expected one of: {known}")
        return self._with(Override(Scope.OBJECT_TYPE, OPERATORS[object_type], spec))

    def set_module_name(self, module_name: str, spec: LayerSpec | None) -> QuantConfig:
        """Return a config in which products inside the module `module_name` (and below it) use `spec`."""
        return self._with(Override(Scope.MODULE_NAME, module_name, spec))

    def set_module_name_regex(self, pattern: str, spec: LayerSpec | None) -> QuantConfig:
        """
        Return a config in which products whose module path matches `pattern` from its start use `spec`.

        Raises `ConfigError` where `pattern` is no regular expression.
        """
        override = Override(Scope.MODULE_NAME_REGEX, pattern, spec)
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from error
        return self._with(override)

    def override_for(self, operator: str, module: str) -> Override | None:
        """Return the override that decides for a product, or None where the global spec does."""
        matching = [o for o in self.overrides if o.matches(operator, module)]
        named = [o for o in matching if o.scope is Scope.MODULE_NAME]
        if named:
            return max(named, key=lambda o: len(o.key))
        return next((o for scope in Scope for o in matching if o.scope is scope), None)

    def _with(self, override: Override) -> QuantConfig:
        # As in a dictionary: setting a key again replaces its value and keeps its place.
        keyed = {(o.scope, o.key): o for o in self.overrides} | {(override.scope, override.key): override}
        return replace(self, overrides=tuple(keyed.values()))
