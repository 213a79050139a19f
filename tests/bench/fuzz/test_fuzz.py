"""The fuzzer: what it changes follows from the seed, and what it finds is told apart."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import fxquant
from bench.fuzz import mutate, trial
from bench.fuzz.mutate import write_mutant
from bench.fuzz.seeds import images, make_seeds
from bench.fuzz.trial import try_file
from bench.fuzz.watch import Watch
from fxquant.checkpoint.tensors import digest
from tests.support.checkpoints import at_stage, conv_net


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return small checkpoints, each declaring its input."""
    folder = tmp_path_factory.mktemp("seeds")
    graphs = {
        "float": fxquant.trace(conv_net(), images()),
        "calibrated": at_stage("conv", "calibrated"),
        "fake": at_stage("conv", "fake"),
        "int8": at_stage("conv", "int8"),
    }
    for name, gm in graphs.items():
        fxquant.save(gm, folder / f"{name}.safetensors")
    return sorted(folder.iterdir())


def test_files_are_refused_or_run(seeds: list[Path], tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    for index in range(120):
        rng = random.Random(f"test:{index}")
        changes = write_mutant(rng.choice(seeds), tmp_path / "model", rng)
        outcome, said = try_file(tmp_path / "model")
        assert outcome in ("refused", "ran", "undeclared", "values", "too large"), (index, changes, outcome, said)
        counts[outcome] = counts.get(outcome, 0) + 1
    assert counts["refused"] > 50
    assert counts["ran"] > 10


def test_a_file_follows_from_its_number(seeds: list[Path], tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        changes = write_mutant(seeds[0], tmp_path / name, random.Random("0:5"))
        contents, tensors = mutate.read_parts(tmp_path / name)
        written.append((changes, contents, {key: digest(t) for key, t in tensors.items()}))
    assert written[0] == written[1]


def test_every_change_changes_something(seeds: list[Path]) -> None:
    for change in set(mutate.CHANGES):
        for attempt in range(20):
            contents, tensors = mutate.read_parts(seeds[attempt % len(seeds)])
            before = json.dumps(contents), {key: digest(t.contiguous()) for key, t in tensors.items()}
            try:
                change(contents, tensors, random.Random(attempt))
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
                continue
            after = json.dumps(contents), {key: digest(t.contiguous()) for key, t in tensors.items()}
            if after != before:
                break
        else:
            pytest.fail(f"{change.__name__} changed nothing")


def test_other_exceptions_are_findings(seeds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(seed for seed in seeds if seed.stem == "int8")
    assert try_file(file) == ("ran", "")
    with monkeypatch.context() as patch:
        patch.setattr(trial, "_run", lambda *args: torch.ones(2) + torch.ones(3))
        assert try_file(file)[0] == "late"
    monkeypatch.setattr(fxquant, "load", lambda path: 1 / 0)
    assert try_file(file) == ("load", "ZeroDivisionError: division by zero")


def test_a_crash_is_kept_and_passed_over(tmp_path: Path) -> None:
    watch = Watch(tmp_path, seed=0, first=0, workers=2, files=6, sample=0)
    (tmp_path / "file").write_bytes(b"x")
    watch.current = {"index": 2, "file": "file", "source": "int8", "changes": []}
    watch._count({"index": 2, "outcome": "crash", "said": "crash -11"})
    assert (watch.next, watch.counts) == (4, {"crash": 1})
    assert json.loads((tmp_path / "findings" / "crash_0_2.json").read_text())["said"] == "crash -11"
    assert (tmp_path / "findings" / "crash_0_2.safetensors").read_bytes() == b"x"
    watch._count({"index": 4, "outcome": "refused", "said": "", "seconds": 9.0})
    assert watch.counts == {"crash": 1, "hang": 1}
    assert watch.done


@pytest.mark.long
def test_all_seeds_run_as_they_are(tmp_path: Path) -> None:
    for file in make_seeds(tmp_path):
        assert try_file(file) == ("ran", ""), file.stem
