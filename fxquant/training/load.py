"""Load a trained model from a checkpoint, to measure or convert it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import fx

from fxquant.distributed import from_first
from fxquant.training.state import describe_quantisers, load_model
from fxquant.training.state_file import compare_settings, read_state


def load_trained(
    prepared: fx.GraphModule, file: str | os.PathLike[str], identity: Mapping[str, Any] | None = None
) -> fx.GraphModule | None:
    """
    Load the weights of a training's checkpoint into `prepared`, and return its moving average, or None where it holds none.

    prepared: a graph from `fxquant.prepare_qat` that has run once.
    identity: the facts that the training was given as `identity`. Those named here have to be equal.

    Both models are left in eval mode. In a process group every rank calls this, and rank 0 reads.

    Raises `CheckpointError` for a file that cannot be read. For one of another model or other bits it names what differs.
    """
    wanted = {**(identity or {}), "quantisers": describe_quantisers(prepared)}
    saved = from_first(lambda: _read(Path(file), wanted))
    load_model(prepared.eval(), saved["model"])
    if saved["ema"] is None:
        return None
    averaged = copy.deepcopy(prepared)
    load_model(averaged, saved["ema"])
    return averaged


def _read(file: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    saved = read_state(file)
    compare_settings(file, {name: saved["settings"].get(name) for name in wanted}, wanted)
    return {name: saved[name] for name in ("model", "ema")}
