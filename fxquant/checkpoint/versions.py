"""The versions of the libraries that a graph was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from fxquant.version import __version__


def library_versions() -> tuple[tuple[str, str], ...]:
    """Return names and versions of fxquant, torch and, where it is installed, timm, which is not imported."""
    found = [("fxquant", __version__), ("torch", str(torch.__version__))]
    try:
        return (*found, ("timm", version("timm")))
    except PackageNotFoundError:
        return tuple(found)
