"""`fxquant eval` and `fxquant quantize` under torchrun say once what one process says, and fail in every process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fxquant.cli.main import main

MODEL = "test_vit"  # of timm, which other processes know, too
ROOT = Path(__file__).parents[2]
SMALL = ["--img-size=32", "--num-classes=3", "--calib=9", "--batch-size=4", "--workers=0", "--threads=1"]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Take back what ``--threads 1`` sets: equal numbers need equally many threads, as the order of sums depends on them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "fxquant", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300)


@pytest.mark.long
def test_eval_equals_that_of_one_process_and_prints_once(folder: Path, tmp_path: Path) -> None:
    def options(name: str) -> list[object]:
        written = ["--json", tmp_path / f"{name}.json", "--save", tmp_path / f"{name}.safetensors"]
        return ["eval", MODEL, "--data", folder, *SMALL, *written]

    assert main(list(map(str, options("one")))) == 0
    done = torchrun(*options("two"))
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["results"] == one["results"]
    assert two["data"] == one["data"]
    assert two["processes"] == 2
    assert "processes" not in one
    assert done.stdout.count("float model: top-1") == done.stdout.count("saved ") == 1
    assert " on 2 processes: the batches are shared out" in done.stdout
    tensors, wanted = (load_file(tmp_path / f"{name}.safetensors") for name in ("two", "one"))
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in tensors)


@pytest.mark.long
def test_unreadable_images_are_skipped_as_by_one_process(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for name in ("train/cat/1.png", "val/dog/0.png", "val/eel/6.png"):
        (broken / name).write_bytes(b"")

    def options(name: str) -> list[object]:
        written = ["--json", tmp_path / f"{name}.json", "--save", tmp_path / f"{name}.safetensors"]
        sizes = ["--calib=29", "--calib-batch-size=1", "--batch-size=1", "--max-unreadable=10"]
        return ["eval", MODEL, "--data", broken, *SMALL, *sizes, *written]

    assert main(list(map(str, options("one")))) == 0
    done = torchrun(*options("two"))
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["results"] == one["results"]
    assert two["data"] == one["data"]
    assert done.stdout.count("skipped 2 of 21 images") == done.stdout.count("skipped 1 of 29 images") == 1
    tensors, wanted = (load_file(tmp_path / f"{name}.safetensors") for name in ("two", "one"))
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


@pytest.mark.long
def test_an_error_of_one_process_is_told_once_and_ends_all(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for image in (broken / "val" / "dog").glob("*.png"):
        image.write_bytes(image.read_bytes()[:200])
    out = tmp_path / "out.safetensors"
    # Batches of one image take turns between the processes: they do not fail at the same time.
    options = ["--batch-size", 1, "--save", out]
    done = torchrun("eval", MODEL, "--data", broken, *SMALL, *options)
    assert done.returncode != 0
    assert done.stderr.count("fxquant: error: ") == 1
    assert "of 21 images cannot be read" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not out.exists()
