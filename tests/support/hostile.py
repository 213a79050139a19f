"""
Files made to do harm, with checksums that are right.

Each either raises `CheckpointError` or loads as a graph of the dialect; whatever it names is never run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import fxquant
from fxquant import CheckpointError
from tests.support.checkpoints import forge

Change = Callable[[Any, dict[str, Tensor]], Any]

INJECTIONS = [
    "x\n    import fxquant_canary",
    "x; import fxquant_canary",
    "x = __import__('fxquant_canary')",
    '"); __import__("fxquant_canary"); ("',
    "'+__import__('fxquant_canary')+'",
    "__import__",
    "__class__",
    "a b",
    "a-b",
    "1x",
    "",
    "class",
    "\u2179",  # a letter to Python, which reads it as x
    "x" * 2000,
]


def refused(path: Path, change: Change, match: str = "") -> None:
    """Check that the file with `change` made to it is refused, with a reason that matches."""
    forge(path, change)
    with pytest.raises(CheckpointError, match=match or "."):
        fxquant.load(path)
