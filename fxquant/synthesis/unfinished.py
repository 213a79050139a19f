"""The state of an unfinished synthesis on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import CheckpointError
from fxquant.files.tensor_file import read_tensors, write_tensors
from fxquant.synthesis.optimisation import SynthesisState

_KIND = "fxquant_synthesis_state"
_FORMAT = 1
_TENSORS = ("done", "images", "first_moment", "second_moment", "labels", "random")


class SynthesisFile:
    """
    The file of a synthesis, from which it can go on. `settings` tell this synthesis from others.

    file: None writes nothing.
    interval: seconds between two writes.
    """

    def __init__(self, file: str | os.PathLike[str] | None, settings: Mapping[str, Any], interval: float) -> None:
        self.file = None if file is None else Path(file)
        self.settings = dict(settings)
        self.interval = interval
        self._written = time.monotonic()

    def read(self, device: torch.device) -> SynthesisState | None:
        """
        Return the state in the file, or None where there is no file.

        Raises `CheckpointError` for a file that is damaged or of another kind. For another synthesis it names the setting
        that differs.
        """
        if self.file is None or not self.file.exists():
            return None
        tensors, facts = read_tensors(self.file, _KIND, CheckpointError)
        if facts.get("format") != _FORMAT:
            raise CheckpointError(
                f"{str(self.file)!r} has format {facts.get('format')!r}, this fxquant reads {_FORMAT}"
            )
        self._compare(facts.get("settings"))
        tau, step = facts.get("tau"), facts.get("step")
        numbers = isinstance(tau, float) and isinstance(step, int) and 0 <= step <= self.settings["steps"]
        if set(tensors) != set(_TENSORS) or not numbers:
            raise CheckpointError(
                f"{str(self.file)!r} is damaged: it does not hold a whole state; delete it to start anew"
            )
        self._check(tensors)
        placed = {name: t if name == "random" else t.to(device) for name, t in tensors.items()}
        return SynthesisState(**placed, tau=float(facts["tau"]), step=int(facts["step"]))

    def write(self, state: SynthesisState) -> None:
        """Write `state`; raise `CheckpointError` where that fails."""
        if self.file is not None:
            facts = {"format": _FORMAT, "settings": self.settings, "tau": state.tau, "step": state.step}
            tensors = {name: getattr(state, name) for name in _TENSORS}
            write_tensors(self.file, _KIND, tensors, facts, CheckpointError)
            self._written = time.monotonic()

    def write_now_and_then(self, state: SynthesisState) -> None:
        """Write `state` where the interval has passed since the last time."""
        if time.monotonic() - self._written >= self.interval:
            self.write(state)

    def _compare(self, found: object) -> None:
        saved = found if isinstance(found, dict) else {}
        for name in dict.fromkeys([*self.settings, *saved]):
            wanted = self.settings.get(name)
            if saved.get(name) != wanted:
                raise CheckpointError(
                    f"{str(self.file)!r} holds another synthesis: {name} is {_shown(saved.get(name))} there and "
                    f"{_shown(wanted)} here. Give the same settings to go on with it, or another file, or delete it"
                )

    def _check(self, tensors: dict[str, Tensor]) -> None:
        """Refuse tensors that no synthesis of these settings has."""
        images, shape = tensors["images"], torch.Size(self.settings["size"])
        for name in ("done", "images", "first_moment", "second_moment"):
            floats = tensors[name].dtype is torch.float32
            if not floats or tensors[name].shape[1:] != shape:
                raise CheckpointError(f"{str(self.file)!r} is damaged: {name} has shape {tuple(tensors[name].shape)}")
        generator = tensors["random"]
        same = all(len(tensors[name]) == len(images) for name in ("first_moment", "second_moment", "labels"))
        if len(images) and not same:
            raise CheckpointError(f"{str(self.file)!r} is damaged: its tensors are not of one batch")
        if generator.dtype is not torch.uint8 or generator.shape != torch.Generator().get_state().shape:
            raise CheckpointError(f"{str(self.file)!r} is damaged: it holds no state of a random generator")


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
