"""What was freed goes back to the system, though something that is still held lies behind it."""

from __future__ import annotations

import platform

import pytest
import torch

from fxquant.benchmark import memory
from fxquant.compiling.heap import trim_heap

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep no heap of this kind")
def test_a_hole_in_the_heap_goes_back() -> None:
    blocks = [torch.ones(MIB // 16, dtype=torch.int8) for _ in range(512)]
    held = torch.ones(MIB // 16, dtype=torch.int8)
    del blocks
    before = memory._status("VmRSS")
    trim_heap()
    after = memory._status("VmRSS")
    assert held.all()
    assert before is not None
    assert after is not None
    assert before - after > 16 * MIB


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libc.so.6: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    trim_heap()
