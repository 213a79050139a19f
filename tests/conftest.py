"""Settings that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.support.folders"]

pytest.register_assert_rewrite("tests.support.check_pass")

# The same examples every time, however busy the machine. `--hypothesis-profile=search` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("repeatable")
