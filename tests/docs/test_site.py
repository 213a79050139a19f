"""The reference of the site holds the public names, each where it is defined."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import fxquant

DOCS = Path(__file__).parents[2] / "docs"


def test_every_public_name_is_in_the_reference_once() -> None:
    listed = re.findall(r"^::: (\S+)\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    modules = {name for name in fxquant.__all__ if name in ("models", "__version__")}
    assert sorted(name for _, name in listed) == sorted(set(fxquant.__all__) - modules)
    for module, name in listed:
        assert getattr(importlib.import_module(module), name) is getattr(fxquant, name)
