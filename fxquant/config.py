"""
Configuration: frozen value types that say how the operands of matrix products are quantised.

`LayerSpec` describes one product, whose operands may have specs of their own by the role they play, `QuantConfig` the whole
model. A config is never changed: every ``set_*`` returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from operator import matmul
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.errors import ConfigError
from fxquant.granularity import PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.log2 import Log2
from fxquant.operands import OperandSpec, Role, TensorSpec, check_bool
from fxquant.placement import Placement
from fxquant.search import NoisyBias, ScaleSearch
from fxquant.twin import TwinGELU, TwinSoftmax

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LayerSpec:
    """
    How the operands of one product are quantised, by role; a role without a spec of its own uses `activation`.

    A `weight` or `activation` of None leaves that operand float. search: how calibration looks for better scales than those
    that the observers give; noise: whether a linear layer's or a patch embedding's input gets a noisy bias.

    Raises `ConfigError` for a spec that its role cannot have.
    """

    weight: TensorSpec | None = field(
        default_factory=partial(TensorSpec, signed=True, symmetric=True, granularity=PerChannel(0))
    )
    activation: TensorSpec | None = field(default_factory=TensorSpec)
    norm: TensorSpec | None = None
    gelu: TensorSpec | TwinGELU | None = None
    query: TensorSpec | None = None
    key: TensorSpec | None = None
    softmax: TensorSpec | TwinSoftmax | Log2 | None = None
    value: TensorSpec | None = None
    search: ScaleSearch | None = None
    noise: NoisyBias | None = None

    def __post_init__(self) -> None:
        for role in Role:
            value = getattr(self, role.value)
            special = _SPECIAL.get(role, ())
            if type(value) in special:
                continue
            if value is not None and not isinstance(value, TensorSpec):
                expected = ", ".join(kind.__name__ for kind in (TensorSpec, *special))
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


# LogIntSoftmax is not among them: it reads quantised scores, which only a `Placement` has.
_SPECIAL: dict[Role, tuple[type, ...]] = {Role.GELU: (TwinGELU,), Role.SOFTMAX: (TwinSoftmax, Log2)}


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

    trunk: the spec of the first and last layers, and of all others that every path from the image to the logits passes, such as
    where patches are merged; None: they have the global one. An override beats it.

    float_dtype: what is not int8, the residual stream, norms and attention, is computed in it; None: in the model's own dtype.

    placement: quantise these values, whatever reads them, in place of the activations that products read; specs of activations
    in `layer` and overrides then have no effect. What a product that is left float gives stays float too. Attention is
    opened, and its products quantised, where values inside it are placed.
    """

    layer: LayerSpec | None = field(default_factory=LayerSpec)
    patch_embed: bool = True
    head: bool = True
    attention: bool = False
    overrides: tuple[Override, ...] = ()
    float_dtype: torch.dtype | None = None
    placement: Placement | None = None
    trunk: LayerSpec | None = None

    def __post_init__(self) -> None:
        if self.float_dtype not in (None, *FLOAT_DTYPES):
            raise ConfigError(f"QuantConfig.float_dtype must be a float dtype or None, got {self.float_dtype!r}")
        if self.layer is not None and not isinstance(self.layer, LayerSpec):
            raise ConfigError(f"QuantConfig.layer must be a LayerSpec or None, got {self.layer!r}")
        if self.trunk is not None and not isinstance(self.trunk, LayerSpec):
            raise ConfigError(f"QuantConfig.trunk must be a LayerSpec or None, got {self.trunk!r}")
        for name in ("patch_embed", "head", "attention"):
            check_bool(f"QuantConfig.{name}", getattr(self, name))
        if self.placement is not None:
            self._check_placement(self.placement)

    def _check_placement(self, placement: Placement) -> None:
        if not isinstance(placement, Placement):
            raise ConfigError(f"QuantConfig.placement must be a Placement or None, got {placement!r}")
        if self.float_dtype not in (None, torch.float32):
            raise ConfigError(
                f"a placement rounds float32 values, which float_dtype={self.float_dtype} are not: leave it out"
            )
        for layer in (self.layer, self.trunk, *(o.spec for o in self.overrides)):
            for name in ("search", "noise"):
                if layer is not None and getattr(layer, name) is not None:
                    raise ConfigError(
                        f"a placement quantises values by what observers see of them, and LayerSpec.{name} searches operands "
                        f"of products: use {name}=None, or no placement"
                    )

    @property
    def opens_attention(self) -> bool:
        """Whether the products of attention are quantised, or values between them."""
        return self.attention or (self.placement is not None and self.placement.opens_attention)

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
