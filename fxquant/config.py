"""
Configuration: frozen value types that say how each operand of each matrix product is quantised.

`TensorSpec` describes one operand, `LayerSpec` one product (an operand may have its own spec by the role it plays),
`QuantConfig` the whole model. A config is never changed: every ``set_*`` returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.errors import ConfigError
from fxquant.granularity import Granularity, PerChannel, PerHead, PerTensor, RowGroups
from fxquant.numerics import code_range
from fxquant.observers.base import Observer, ObserverOptions
from fxquant.observers.minmax import MinMax


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
    observer: frozen options of the observer that finds the range.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    granularity: Granularity = PerTensor()
    observer: ObserverOptions = MinMax()

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.granularity, PerTensor | PerChannel | PerHead | RowGroups):
            raise ConfigError(
                f"granularity must be PerTensor, PerChannel, PerHead or RowGroups, got {self.granularity!r}"
            )
        if not isinstance(self.observer, ObserverOptions):
            raise ConfigError(f"observer must be observer options such as MinMax(), got {self.observer!r}")

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return code_range(self.bits, self.signed)[0]

    @property
    def qmax(self) -> int:
        """Largest code."""
        return code_range(self.bits, self.signed)[1]

    def build(self, name: str) -> Observer:
        """Return a fresh observer for this spec; `name` is the operand it will be named by in errors."""
        return self.observer.build(self, name)


@dataclass(frozen=True)
class LayerSpec:
    """
    How the operands of one product are quantised, by role; a role without a spec of its own uses `activation`.

    A `weight` or `activation` of None leaves that operand float.
    """

    weight: TensorSpec | None = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(0))
    activation: TensorSpec | None = TensorSpec()
    norm: TensorSpec | None = None
    gelu: TensorSpec | None = None
    query: TensorSpec | None = None
    key: TensorSpec | None = None
    softmax: TensorSpec | None = None
    value: TensorSpec | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and not isinstance(value, TensorSpec):
                raise ConfigError(f"LayerSpec.{f.name} must be a TensorSpec or None, got {value!r}")
        if self.weight is not None and isinstance(self.weight.granularity, PerHead):
            raise ConfigError(
                "a weight has no heads: use PerTensor, PerChannel(0) or RowGroups(n) for LayerSpec.weight"
            )
        if self.activation is not None and isinstance(self.activation.granularity, RowGroups):
            raise ConfigError("RowGroups splits the rows of a weight: use PerTensor, PerChannel or PerHead here")

    def spec_for(self, role: Role) -> TensorSpec | None:
        """Return the spec of an operand that plays `role`."""
        if role is Role.WEIGHT:
            return self.weight
        specific: TensorSpec | None = getattr(self, role.value)
        return specific if specific is not None else self.activation


OPERATORS: dict[Any, str] = {
    nn.Linear: "linear",
    F.linear: "linear",
    "linear": "linear",
    nn.Conv2d: "conv2d",
    F.conv2d: "conv2d",
    torch.conv2d: "conv2d",
    "conv2d": "conv2d",
    torch.matmul: "matmul",
    torch.bmm: "matmul",
    "matmul": "matmul",
    F.scaled_dot_product_attention: "attention",
    "attention": "attention",
}


@dataclass(frozen=True)
class Override:
    """One exception to the global spec; a `spec` of None leaves the products that match float."""

    kind: str
    key: str
    spec: LayerSpec | None

    def matches(self, operator: str, module: str) -> bool:
        """Say whether this override applies to a product of `operator` inside the module path `module`."""
        if self.kind == "object_type":
            return operator == self.key
        if self.kind == "module_name_regex":
            return re.search(self.key, module) is not None
        return module == self.key or module.startswith(self.key + ".")


@dataclass(frozen=True)
class QuantConfig:
    """
    How a model is quantised: one spec for all, switches for its parts, and overrides.

    An override by module name beats one by regular expression, which beats one by operator type, which beats the
    global spec and the switches; among module names the longest wins, otherwise the latest. Method names and order
    are those of ``torch.ao.quantization.QConfigMapping``, but each method returns a new config.
    """

    layer: LayerSpec | None = field(default_factory=LayerSpec)
    patch_embed: bool = True
    head: bool = True
    attention: bool = False
    overrides: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        if self.layer is not None and not isinstance(self.layer, LayerSpec):
            raise ConfigError(f"QuantConfig.layer must be a LayerSpec or None, got {self.layer!r}")

    def set_global(self, spec: LayerSpec | None) -> QuantConfig:
        """Return a config whose products without an override use `spec` (None: stay float)."""
        return replace(self, layer=spec)

    def set_object_type(
        self, object_type: type[nn.Module] | Callable[..., Any] | str, spec: LayerSpec | None
    ) -> QuantConfig:
        """Return a config in which products of an operator such as ``nn.Linear`` or ``torch.matmul`` use `spec`."""
        if object_type not in OPERATORS:
            known = ", ".join(sorted(set(OPERATORS.values())))
            raise ConfigError(f"{object_type!r} is not a matrix product fxquant quantises; expected one of: {known}")
        return self._with(Override("object_type", OPERATORS[object_type], spec))

    def set_module_name(self, module_name: str, spec: LayerSpec | None) -> QuantConfig:
        """Return a config in which products inside the module `module_name` (and below it) use `spec`."""
        return self._with(Override("module_name", module_name, spec))

    def set_module_name_regex(self, pattern: str, spec: LayerSpec | None) -> QuantConfig:
        """Return a config in which products whose module path holds a match of `pattern` use `spec`."""
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from error
        return self._with(Override("module_name_regex", pattern, spec))

    def override_for(self, operator: str, module: str) -> Override | None:
        """Return the override that decides for a product, or None where the global spec does."""
        matching = [o for o in self.overrides if o.matches(operator, module)]
        for kind in ("module_name", "module_name_regex", "object_type"):
            of_kind = [o for o in matching if o.kind == kind]
            if of_kind and kind == "module_name":
                return max(reversed(of_kind), key=lambda o: len(o.key))
            if of_kind:
                return of_kind[-1]
        return None

    def _with(self, override: Override) -> QuantConfig:
        if override.spec is not None and not isinstance(override.spec, LayerSpec):
            raise ConfigError(f"expected a LayerSpec or None (leave float), got {override.spec!r}")
        return replace(self, overrides=(*self.overrides, override))
