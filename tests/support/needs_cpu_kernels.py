"""What tests of the kernels for x86 processors need."""

from __future__ import annotations

import pytest

from fxquant.kernels import cpu

needs_kernels = pytest.mark.skipif(
    cpu.obstacle() is not None, reason=f"no kernels for this processor: {cpu.obstacle()}"
)
