"""Memory of a call: the peak counts what a call gives back."""

from __future__ import annotations

import pytest
import torch

from fxquant.benchmark import memory
from fxquant.benchmark.memory import held_bytes, peak_bytes

CPU, SIZE = torch.device("cpu"), 64 * 2**20


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells the peak of a call")
def test_peak_of_a_call_that_frees_what_it_takes() -> None:
    before = held_bytes(CPU)
    peak = peak_bytes(lambda: torch.ones(SIZE, dtype=torch.int8), CPU)
    again = peak_bytes(lambda: None, CPU)
    assert before is not None
    assert peak is not None
    assert again is not None
    assert peak - before > 0.9 * SIZE
    assert peak - again > 0.9 * SIZE


def test_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_STATUS", "_CLEAR"):
        monkeypatch.setattr(memory, name, memory._STATUS / "missing")
    assert held_bytes(CPU) is None
    assert peak_bytes(lambda: None, CPU) is None
