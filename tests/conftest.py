"""Settings that all tests share."""

from __future__ import annotations

import os

# Before torch is imported: workers side by side have a core each, and the order of sums depends on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.folders"]

# The same examples every time, however busy the machine. `--hypothesis-profile=search` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let each test and its fixtures draw the same numbers, whichever tests ran before it on this worker."""
    torch.manual_seed(0)
