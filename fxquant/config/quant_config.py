"""
Configuration: frozen value types that say how the operands of matrix products are quantised.

`LayerSpec` describes one product, whose operands may have specs of their own by the role they play, `QuantConfig` the whole
model. A config is never changed: every ``set_*`` returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from operator import matmul
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.config.folds import Folds
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import check_bool
from fxquant.config.overrides import Override, Scope
from fxquant.config.placement import Placement
from fxquant.errors import ConfigError, expect_whole

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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


@dataclass(frozen=True)
class QuantConfig:
    """
    How a model is quantised: one spec for all, switches for its parts, and overrides.

    Overrides mean what they mean in ``torch.ao.quantization.QConfigMapping``: one by module name beats one by regular
    expression, which beats one by operator type, which beats the global spec. Of several module names the longest decides,
    of several expressions the first one set. Here each method returns a new config, and an override that no product of the
    model matches is an error.

    `patch_embed`, `head`, `decoder` and `attention` switch those products on or off; decoder: what follows the queries of a
    detector, see `fxquant.graph.decoder`. An override by name or expression beats the first three. The products of attention
    come on where an override names them: by operator type, or by the module that computes them and not one around it
    (``blocks.0.attn`` or ``.*attn``; not ``blocks.0`` or ``blocks.*``).

    trunk: the spec of the first and last layers, and of all others that every path from the image to the logits passes, such as
    where patches are merged; None: they have the global one. An override beats it.

    float_dtype: what is not int8, the residual stream, norms and attention, is computed in it; None: in the model's own dtype.

    placement: quantise these values, whatever reads them, in place of the activations that products read; specs of activations
    in `layer` and overrides then have no effect. What a product that is left float gives stays float too. Attention is
    opened, and its products quantised, where values inside it are placed.

    strict_inputs: whether a converted model raises `InputError` for images that are not finite or lie far outside of what
    calibration saw. Otherwise the former give NaN and the latter a warning, see `fxquant.ops.check_values`.

    reconstruction: for how many iterations `fxquant.quantize` and the commands reconstruct each block after calibration, see
    `fxquant.reconstruct`; 0: not at all.

    folds: what is folded into the weights before they are quantised, which takes example inputs; None: nothing.
    """

    layer: LayerSpec | None = field(default_factory=LayerSpec)
    patch_embed: bool = True
    head: bool = True
    decoder: bool = False
    attention: bool = False
    overrides: tuple[Override, ...] = ()
    float_dtype: torch.dtype | None = None
    placement: Placement | None = None
    trunk: LayerSpec | None = None
    strict_inputs: bool = False
    folds: Folds | None = None
    reconstruction: int = 0

    def __post_init__(self) -> None:
        if self.float_dtype not in (None, *FLOAT_DTYPES):
            raise ConfigError(f"QuantConfig.float_dtype must be a float dtype or None, got {self.float_dtype!r}")
        if self.layer is not None and not isinstance(self.layer, LayerSpec):
            raise ConfigError(f"QuantConfig.layer must be a LayerSpec or None, got {self.layer!r}")
        if self.trunk is not None and not isinstance(self.trunk, LayerSpec):
            raise ConfigError(f"QuantConfig.trunk must be a LayerSpec or None, got {self.trunk!r}")
        for name in ("patch_embed", "head", "decoder", "attention", "strict_inputs"):
            check_bool(f"QuantConfig.{name}", getattr(self, name))
        if self.folds is not None and not isinstance(self.folds, Folds):
            raise ConfigError(f"QuantConfig.folds must be Folds or None, got {self.folds!r}")
        expect_whole("QuantConfig.reconstruction", self.reconstruction, least=0)
        if self.placement is not None:
            self._check_placement(self.placement)

    def _check_placement(self, placement: Placement) -> None:
        if not isinstance(placement, Placement):
            raise ConfigError(f"QuantConfig.placement must be a Placement or None, got {placement!r}")
        if self.float_dtype not in (None, torch.float32):
            raise ConfigError(
                f"a placement rounds float32 values, which float_dtype={self.float_dtype} are not: leave it out"
            )
        if self.folds is not None and self.folds.norms is not None:
            raise ConfigError(
                "a placement rounds norms whoever reads them, and Folds.norms changes them: use norms=None"
            )
        for layer in (self.layer, self.trunk, *(o.spec for o in self.overrides)):
            for name in ("search", "noise", "fit"):
                if layer is not None and getattr(layer, name) is not None:
                    raise ConfigError(
                        f"a placement quantises values by what observers see of them, and LayerSpec.{name} searches operands "
                        f"of products: use {name}=None, or no placement"
                    )

    @property
    def opens_attention(self) -> bool:
        """Whether the products of attention are quantised, or values between them."""
        return self.attention or (self.placement is not None and self.placement.opens_attention)

    def weight_only(self) -> QuantConfig:
        """
        Return a config in which every activation stays float, and weights alone are quantised: see `LayerSpec.weight_only`.

        Raises `ConfigError` where values are placed, as those are activations.
        """
        if self.placement is not None:
            raise ConfigError(
                "a placement rounds activations: 16 bits, which leave them float, are for recipes without one"
            )
        overrides = tuple(replace(o, spec=o.spec and o.spec.weight_only()) for o in self.overrides)
        layer, trunk = self.layer and self.layer.weight_only(), self.trunk and self.trunk.weight_only()
        return replace(self, layer=layer, trunk=trunk, overrides=overrides)

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
