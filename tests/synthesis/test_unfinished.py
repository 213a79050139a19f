"""The state on disk: whole or not there, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fxquant.errors import CheckpointError
from fxquant.synthesis.optimisation import begin, begin_batch
from fxquant.synthesis.synthesis_options import SynthesisOptions
from fxquant.synthesis.unfinished import SynthesisFile

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"n": 2, "size": [3, 8, 8], "steps": 10, "jitter": [1, 2]}
NAMES = ("done", "images", "first_moment", "second_moment", "labels", "random")


def state() -> Any:
    return begin_batch(begin((3, 8, 8), 0, CPU), 2, 10, SynthesisOptions())


def written(folder: Path) -> SynthesisFile:
    file = SynthesisFile(folder / "state", SETTINGS, 60.0)
    file.write(state())
    return file


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    found = written(tmp_path).read(CPU)
    assert found is not None
    assert (found.tau, found.step) == (state().tau, 0)
    assert all(torch.equal(getattr(found, name), getattr(state(), name)) for name in NAMES)


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert SynthesisFile(None, {}, 0.0).read(CPU) is None
    assert SynthesisFile(tmp_path / "state", SETTINGS, 0.0).read(CPU) is None
    SynthesisFile(None, {}, 0.0).write(state())


def test_other_files_and_damage_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    path = tmp_path / "state"
    whole = path.read_bytes()
    tensors = {name: getattr(state(), name) for name in NAMES}

    def with_facts(held: dict[str, Any], **changed: Any) -> None:
        facts = {"format": 1, "settings": SETTINGS, "tau": 1.0, "step": 0} | changed
        save_file(held, path, {"fxquant_synthesis_state": json.dumps(facts)})

    with_facts(tensors)
    assert file.read(CPU) is not None
    cases: list[tuple[Any, str]] = [
        (lambda: path.write_bytes(whole[:200]), "cannot read"),
        (lambda: path.write_bytes(b"PK\x03\x04" * 50), "cannot read"),
        (lambda: save_file(tensors, path), "none of the kind expected here"),
        (lambda: with_facts(tensors, format=2), "has format 2, this fxquant reads 1"),
        (lambda: with_facts(tensors, settings=None), "another synthesis: n is not set there and 2 here"),
        (lambda: with_facts(tensors, settings=SETTINGS | {"extra": 1}), "extra is 1 there and not set here"),
        (lambda: with_facts(tensors, step=11), "does not hold a whole state"),
        (lambda: with_facts(tensors, tau="x"), "does not hold a whole state"),
        (lambda: with_facts({"images": tensors["images"]}), "does not hold a whole state"),
        (lambda: with_facts(tensors | {"images": torch.zeros(2, 3, 9, 8)}), "images has shape"),
        (lambda: with_facts(tensors | {"images": torch.zeros(1, 3, 8, 8)}), "not of one batch"),
        (lambda: with_facts(tensors | {"random": torch.zeros(3)}), "no state of a random generator"),
    ]
    for damage, message in cases:
        damage()
        with pytest.raises(CheckpointError, match=message):
            file.read(CPU)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        SynthesisFile(tmp_path / "none" / "state", SETTINGS, 0.0).write(state())
