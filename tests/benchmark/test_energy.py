"""The energy of calls is what the counters of all packages moved by, also past their end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fxquant.benchmark import energy
from fxquant.benchmark.energy import joules_per_call

CPU = torch.device("cpu")


def zone(folder: Path, name: str, kind: str, microjoules: int, top: int = 1000) -> Path:
    made = folder / name
    made.mkdir()
    for file, text in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", top)):
        (made / file).write_text(f"{text}\n")
    return made / "energy_uj"


def test_calls_share_what_the_packages_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 100), zone(tmp_path, "intel-rapl:1", "package-1", 900)
    zone(tmp_path, "intel-rapl:0:0", "core", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 0)

    def run() -> None:
        first.write_text("400")
        second.write_text("100")  # it ended at 1000 and began anew

    assert joules_per_call(run, CPU, seconds=0) == pytest.approx((300 + 200) / 1e6)


def test_counters_that_are_not_there_or_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    assert joules_per_call(lambda: pytest.fail("nothing is run"), CPU) is None
    zone(tmp_path, "intel-rapl:0", "package-0", 100).unlink()
    assert joules_per_call(lambda: pytest.fail("nothing is run"), CPU) is None
