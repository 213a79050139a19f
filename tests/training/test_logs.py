"""log.csv is that of the checkpoint; TensorBoard where it is there."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fxquant import ConfigError
from fxquant.training.logs import COLUMNS, Logs

ROWS: list[dict[str, Any]] = [
    {"pass": i, "epoch": 4 * i, "lr": 0.1, "loss": 2.5 - i, "top5": None, "best_of": 1.0} for i in range(2)
]


def test_rows_are_written_anew_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        for count in (1, 2):
            Logs(tmp_path).write(ROWS[:count])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["pass"], row["epoch"], row["loss"], row["top5"]) for row in rows] == [
        ("0", "0", "2.5", ""),
        ("1", "4", "1.5", ""),
    ]
    assert tuple(rows[0]) == COLUMNS
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_without_a_folder_nothing_is_written() -> None:
    Logs(None, tensorboard=True).write(ROWS)


def test_tensorboard_gets_the_numbers_of_the_last_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            sent.append((folder, purge_step))

        def add_scalar(self, *point: Any) -> None:
            sent.append(point)

        def flush(self) -> None: ...

        def close(self) -> None:
            sent.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    logs = Logs(tmp_path, tensorboard=True, first=4)
    logs.write(ROWS)
    logs.close()
    assert sent == [(str(tmp_path / "tensorboard"), 4), ("lr", 0.1, 4), ("loss", 1.5, 4), "closed"]


def test_without_its_package_tensorboard_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="its package is missing: pip install tensorboard"):
        Logs(tmp_path, tensorboard=True)
