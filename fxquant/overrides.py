"""Overrides that no product of a model matches: a misspelt name must not be ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from fxquant.config import Override, QuantConfig, Scope
from fxquant.errors import ConfigError


def refuse_unmatched(config: QuantConfig, products: Iterable[tuple[str, str]], modules: Iterable[str]) -> None:
    """
    Raise `ConfigError` where an override by module name or expression matches none of the `products`.

    products: operator and module path of each. modules: the paths of all modules that compute anything. An operator type
    that the model lacks does no harm, nor does it to leave float a module that holds no product, such as a layer norm.
    """
    products, modules = list(products), list(modules)
    for override in config.overrides:
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
