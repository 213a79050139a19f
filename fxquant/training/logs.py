"""The log of a training: a table of its passes, and TensorBoard events if asked for."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from fxquant.errors import ConfigError, InputError
from fxquant.files import write_atomically

COLUMNS = (
    "pass",
    "epoch",
    "crops",
    "lr",
    "lambda",
    "loss",
    "task_loss",
    "variation",
    "bit_operations",
    "gradient_norm",
    "oscillating",
    "frozen",
    "top1",
    "top5",
    "ema_top1",
    "ema_top5",
    "images_per_second",
    "seconds",
)


class Logs:
    """
    The file log.csv in `folder`, one row per pass, and TensorBoard's event files if `tensorboard` is True.

    Raises `ConfigError` where the package tensorboard is missing.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False, first: int = 0) -> None:
        self.folder = folder
        self._writer: Any = None
        if tensorboard and folder is not None:
            self._writer = _open_tensorboard(folder, first)

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Write all rows to the table, and send the last one to TensorBoard."""
        self.write_table(history)
        if self._writer is not None and history:
            self._send(history[-1])

    def write_table(self, history: Sequence[dict[str, Any]]) -> None:
        """Write all rows of `history`, so that the table fits the checkpoint however often the training was resumed."""
        if self.folder is None:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        file = self.folder / "log.csv"
        try:
            write_atomically(file, lambda name: Path(name).write_text(text.getvalue(), encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from error

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._writer is not None:
            self._writer.close()

    def _send(self, row: dict[str, Any]) -> None:
        for name in COLUMNS[3:]:
            value = row.get(name)
            if isinstance(value, Real) and math.isfinite(value):
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()


def refuse_without_tensorboard() -> None:
    """Raise `ConfigError` where the package tensorboard is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError("TensorBoard is asked for, its package is missing: pip install tensorboard") from error


def _open_tensorboard(folder: Path, first: int) -> Any:
    """
    Return a writer of TensorBoard's events.

    first: the first epoch that is written. Points that an earlier run wrote from there on are not shown any more.
    """
    refuse_without_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)
