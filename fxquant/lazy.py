"""Packages that cost nothing to import: what they hold is fetched from its module where it is first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def fetch_from(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Return the ``__getattr__`` of `package`.

    homes: by the name of a module in it, the public names that the module defines, with spaces between them.

    It gives these names, and the modules and packages in `package`; others raise `AttributeError`.
    """
    modules = {name: f"{package}.{module}" for module, names in homes.items() for name in names.split()}

    def fetch(name: str) -> Any:
        """Return the public name or the submodule `name`, which is imported now."""
        if name in modules:
            value = getattr(import_module(modules[name]), name)
        elif name.isidentifier() and not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return fetch
