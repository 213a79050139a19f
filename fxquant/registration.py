"""
Models that timm knows by name: those of `fxquant.models`, once fxquant is imported.

timm takes seconds to import, and fxquant does not do it for that alone: where timm comes later, the models follow it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODELS = "fxquant.models"


def register_with_timm() -> None:
    """Register the models now where timm is imported already, else as soon as it is."""
    if sys.modules.get("timm") is not None:
        import_module(_MODELS)
    else:
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Find timm as it would be found without this, and import the models behind it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave every other module to the finders that come after."""
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                # Not when it is found: many a library only asks whether timm is there.
                sys.meta_path.remove(self)
                execute(module)
                import_module(_MODELS)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
