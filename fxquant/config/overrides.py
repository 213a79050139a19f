"""Overrides that no product of a model matches: a misspelt name must not be ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from fxquant.config.layer_spec import LayerSpec
from fxquant.errors import ConfigError


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


def refuse_unmatched(
    overrides: Iterable[Override], products: Iterable[tuple[str, str]], modules: Iterable[str]
) -> None:
    """
    Raise `ConfigError` where an override by module name or expression matches none of the `products`.

    products: operator and module path of each. modules: the paths of all modules that compute anything. An operator type
    that the model lacks does no harm, nor does it to leave float a module that holds no product, such as a layer norm.
    """
    products, modules = list(products), list(modules)
    for override in overrides:
        if override.scope is Scope.OBJECT_TYPE or any(override.matches(*each) for each in products):
            continue
        hint = _hint(override, sorted({module for _, module in products if module}))
        if any(override.matches("", module) for module in modules):
            if override.spec is None:
                continue
            hint = "what it names stays float in any case"
        raise ConfigError(f"the override by {override} matches no matrix product of this model: {hint}")


def _hint(override: Override, modules: list[str]) -> str:
    if override.scope is Scope.MODULE_NAME_REGEX:
        if any(re.search(override.key, module) for module in modules):
            return f"expressions match from the start of a module path; did you mean {'.*' + override.key!r}?"
    else:
        parts = [module.split(".") for module in modules]
        known = {".".join(path[: i + 1]) for path in parts for i in range(len(path))}
        close = get_close_matches(override.key, sorted(known))
        if close:
            return f"did you mean {' or '.join(map(repr, close))}?"
    return f"expected modules such as {', '.join(map(repr, modules[:3]))}" if modules else "its products have no names"
