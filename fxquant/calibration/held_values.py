"""The values that calibration holds between nodes, in memory up to a budget and on disk beyond."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map_only

from fxquant.files import scratch_folder


class Values:
    """
    What each node gave for each batch.

    budget: how many bytes of values stay in memory. A value beyond that goes to a temporary file. The files are removed at the
    end of the `with` block, also after an error.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._values: dict[tuple[fx.Node, int], Any] = {}
        self._folder: Path | None = None
        self._end = contextlib.ExitStack()
        self._files = 0

    def __enter__(self) -> Values:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.clear()
        self._end.close()

    def put(self, node: fx.Node, batch: int, value: Any) -> None:
        """Keep what `node` gave for `batch`."""
        size = size_of(value)
        if size and self.used + size > self.budget:
            self._values[node, batch] = self._spill(value)
        else:
            self.used += size
            self._values[node, batch] = value

    def get(self, node: fx.Node, batch: int) -> Any:
        """Return what was kept."""
        value = self._values[node, batch]
        return torch.load(value, weights_only=True) if isinstance(value, Path) else value

    def holds(self, node: fx.Node, batch: int) -> bool:
        """Say whether a value is kept."""
        return (node, batch) in self._values

    def drop(self, node: fx.Node, batch: int) -> None:
        """Forget a value."""
        value = self._values.pop((node, batch), None)
        if isinstance(value, Path):
            value.unlink()
        else:
            self.used -= size_of(value)

    def _spill(self, value: Any) -> Path:
        if self._folder is None:
            self._folder = self._end.enter_context(scratch_folder(tempfile.gettempdir()))
        self._files += 1
        path = self._folder / f"{self._files}.pt"
        torch.save(tree_map_only(Tensor, torch.clone, value), path)  # of a view only what it shows
        return path


def size_of(value: Any) -> int:
    """Return the bytes of all tensors in `value`."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
