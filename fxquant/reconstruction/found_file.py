"""The state of an unfinished reconstruction on disk: what the blocks so far have found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from fxquant.errors import CheckpointError
from fxquant.files.tensor_file import read_tensors, write_tensors
from fxquant.observers.base import Observer
from fxquant.reconstruction.train_block import BlockOutcome

_KIND = "fxquant_reconstruction_state"
_FORMAT = 1
_FOUND = ("found_weight", "bias_shift", "found_scale", "found_zero_point")


class ReconstructionFile:
    """
    The file of a reconstruction, from which it can go on after the last whole block.

    file: None writes nothing. settings: what tells this reconstruction from others.
    """

    def __init__(self, file: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.file = None if file is None else Path(file)
        self.settings = dict(settings)

    def read(self) -> tuple[list[BlockOutcome], dict[str, Tensor]]:
        """
        Return what became of the blocks so far, and what their observers hold by name; nothing where there is no file.

        Raises `CheckpointError` for a file that is damaged or of another kind. For another reconstruction it names the setting
        that differs.
        """
        if self.file is None or not self.file.exists():
            return [], {}
        tensors, facts = read_tensors(self.file, _KIND, CheckpointError)
        if facts.get("format") != _FORMAT:
            raise CheckpointError(
                f"{str(self.file)!r} has format {facts.get('format')!r}, this fxquant reads {_FORMAT}"
            )
        self._compare(facts.get("settings"))
        try:
            return [_outcome(**plain) for plain in facts["outcomes"]], tensors
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{str(self.file)!r} is damaged: it does not hold a whole state; delete it to start anew"
            ) from error

    def write(self, outcomes: Sequence[BlockOutcome], found: Mapping[str, Tensor]) -> None:
        """Write what the blocks so far have found; raise `CheckpointError` where that fails."""
        if self.file is not None:
            facts = {"format": _FORMAT, "settings": self.settings, "outcomes": [_plain(o) for o in outcomes]}
            write_tensors(self.file, _KIND, found, facts, CheckpointError)

    def _compare(self, found: object) -> None:
        saved = found if isinstance(found, dict) else {}
        for name in dict.fromkeys([*self.settings, *saved]):
            if saved.get(name) != self.settings.get(name):
                raise CheckpointError(
                    f"{str(self.file)!r} holds another reconstruction: {name} is {saved.get(name)} there and "
                    f"{self.settings.get(name)} here. Give the same settings to go on with it, or another file, or delete it"
                )


def _plain(outcome: BlockOutcome) -> dict[str, Any]:
    """Return an outcome as JSON holds it: losses as text, as a block that is not kept may have ended with none."""
    return asdict(outcome) | {"before": repr(outcome.before), "after": repr(outcome.after)}


def _outcome(label: str, before: str, after: str, kept: bool) -> BlockOutcome:
    return BlockOutcome(label, float(before), float(after), kept)


def found_by(prepared: fx.GraphModule, observers: set[Observer]) -> dict[str, Tensor]:
    """Return what some observers of `prepared` hold that reconstruction finds, by the path of the buffer."""
    named = {name: m for name, m in prepared.named_modules() if m in observers}
    return {f"{name}.{kind}": getattr(m, kind) for name, m in named.items() for kind in _FOUND}


def put_found(prepared: fx.GraphModule, found: Mapping[str, Tensor]) -> None:
    """Give the observers of `prepared` what `found_by` returned; raise `CheckpointError` for buffers that they lack."""
    for path, value in found.items():
        name, _, kind = path.rpartition(".")
        observer = dict(prepared.named_modules()).get(name)
        if not isinstance(observer, Observer) or kind not in _FOUND:
            raise CheckpointError(f"the state of the reconstruction is damaged: the model has no {path!r}")
        setattr(observer, kind, value.to(getattr(observer, kind).device))
