"""The ImageNet tables: every row once, whatever stops a run, and one bad row costs no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fxquant
from bench.imagenet import jobs, measure
from bench.imagenet.results import is_done
from tests.bench.imagenet.making import (
    OTHER,
    TINY,
    TINY_FIGURES,
    call_on,
    figure,
    make_checkpoints,
    make_images,
    publish,
    rows_of,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoints(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish two figures of a tiny model."""
    publish(TINY_FIGURES, monkeypatch)


@pytest.fixture
def run(folder: Path, checkpoints: Path, tmp_path: Path) -> Callable[..., int]:
    """Return a call of the command line on the tiny model that writes ``out.json``."""
    return partial(call_on, folder, checkpoints, tmp_path)


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("nothing was left to do")


@pytest.mark.long
def test_every_row_is_measured_printed_and_found_again(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    rows = list(rows_of(tmp_path).values())
    assert [(row["recipe"], row["options"].get("published")) for row in rows] == [
        ("minmax", None),
        ("base_ptq", True),
        ("base_ptq", None),
    ]
    assert all(row["images"] == 6 and 0 <= row["top1_percent"] <= 100 for row in rows)
    assert {"environment", "commit", "date", "float", "published", "weights", "int8_coverage"} <= set(rows[0])
    assert len(json.loads((tmp_path / "out.json").read_text())["floats"]) == 1
    reference, top1 = rows[0]["float"]["top1_percent"], rows[0]["top1_percent"]
    line = f"| tiny | W6A6 | MinMax | published | 4 | 99.00 | {reference:.2f} | 90.00 | {top1:.2f} | 9.00 |"
    assert f"{line} {reference - top1:.2f} |" in out
    assert out.count("| tiny |") == 3
    assert "Warning: evaluated on 6 images, published on 50000." in out
    assert f"the float model has {reference:.2f} % here and 99.00 % in nobody" in err

    written = (tmp_path / "out.json").stat().st_mtime_ns
    monkeypatch.setattr(measure, "build_timm_model", forbid)
    assert run() == 0
    assert (tmp_path / "out.json").stat().st_mtime_ns == written
    assert capsys.readouterr().out.endswith(out[out.index("## ptq4vit") :])
    # What would change a figure is another row; what would not is the same.
    assert run("--batch-size", 3, "--recipes", "minmax") == 0
    assert run("--seed", 1, "--recipes", "minmax") == 1
    assert run("--force", "--recipes", "minmax") == 1
    assert is_done(next(iter(rows_of(tmp_path).values())))  # a result is not lost to a later failure


def test_a_failed_row_is_kept_with_its_error_and_tried_again(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(prepared: Any, target: Any) -> Any:
        raise RuntimeError("first line\nsecond line")

    lost = figure("Lost", "minmax", OTHER, published=())
    monkeypatch.setattr(jobs, "FIGURES", (TINY_FIGURES[0], lost))
    with monkeypatch.context() as patch:
        patch.setattr(fxquant, "convert", fail)
        assert run() == 1
    assert "| MinMax | published | 4 | 99.00 | - | 90.00 | error | 9.00 | - |" in capsys.readouterr().out
    failed, missing = (row["error"] for row in rows_of(tmp_path).values())
    assert failed == "RuntimeError: first line second line"
    assert missing.startswith(f"InputError: no weights for {OTHER.tag}: ")
    assert run() == 1
    out, err = capsys.readouterr()
    assert [is_done(row) for row in rows_of(tmp_path).values()] == [True, False]
    assert f"Error: {OTHER.tag} W6A6 minmax() 4 of 9 images on all of 6 seed=0 int8: InputError: no weights" in out
    assert "Traceback" not in err
    assert run("--models", TINY.name) == 0


@pytest.mark.long
def test_blocks_are_trained_where_the_recipe_says_so(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []

    def keep(task: Any, config: Any, memory: Any, reconstruction: Any) -> None:
        trained.append(reconstruction)
        raise RuntimeError("this was all")

    monkeypatch.setattr(measure, "calibrate_model", keep)
    glfq = figure("GLF-Q", "glfq", options=(("iterations", 2),), published=None)
    monkeypatch.setattr(jobs, "FIGURES", (TINY_FIGURES[0], glfq))
    assert run() == 1
    assert trained == [None, {"iterations": 2}]


@pytest.mark.long
def test_processes_share_the_rows_out(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, recipes in ((1, ["base_ptq"]), (0, ["base_ptq", "minmax", "base_ptq"])):
        monkeypatch.setenv("RANK", str(rank))
        assert run() == 0
        assert [row["recipe"] for row in rows_of(tmp_path).values()] == recipes
    out = capsys.readouterr().out
    assert [out.count(f"[{n}/3]") for n in (1, 2, 3)] == [2, 2, 2]  # each by one process, when it starts and ends
    assert "there already" not in out


RANKS = """
import sys
from functools import partial
from bench.imagenet import jobs, measure
from bench.imagenet.__main__ import main
from fxquant.models.timm_model import build_timm_model
from tests.bench.imagenet.making import TINY_FIGURES, figure, OTHER

jobs.FIGURES = (*TINY_FIGURES, figure("Lost", "minmax", OTHER, published=()))
measure.build_timm_model = partial(build_timm_model, num_classes=3)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_processes_of_torchrun_wait_for_each_other_and_fail_together(
    folder: Path, checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = ["--data", folder, "--checkpoints", checkpoints, "--out", tmp_path / "out.json"]
    command = [*launcher, tmp_path / "ranks.py", *paths, "--constants", "published", "--workers", "0", "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "exitcode  : 1" in done.stderr
    assert len(rows_of(tmp_path)) == 3
    assert [done.stdout.count(f"[{n}/3]") for n in (1, 2, 3)] == [2, 2, 2]
    # The tables once, by the first process, when the row of the other is there too; both report the failure of one.
    assert done.stdout.count("## ptq4vit") == 1
    assert "| W6A6 | BasePTQ | published | 4 | 99.00 | - |" not in done.stdout
    assert "| other | W6A6 | Lost | published | 4 | 99.00 | - | 90.00 | error | 9.00 | - |" in done.stdout


KILLED = """
import os, signal, sys
from pathlib import Path
from functools import partial
from bench.imagenet import jobs, measure
from bench.imagenet.__main__ import main
from fxquant.models.timm_model import build_timm_model
from tests.bench.imagenet.making import TINY_FIGURES

jobs.FIGURES = TINY_FIGURES
measure.build_timm_model = partial(build_timm_model, num_classes=3)
replace, written = os.replace, []

def kill(source, target):
    if Path(target).name == "out.json":
        if len(written) == 2:  # the float result and one row are there, the next row lies beside them
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(target)
    return replace(source, target)

os.replace = kill
main(sys.argv[1:])
"""


@pytest.mark.long
def test_a_killed_run_leaves_a_valid_file_to_go_on_from(
    run: Callable[..., int], folder: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", folder, "--checkpoints", checkpoints, "--out", tmp_path / "out.json"]
    command = [sys.executable, "-c", KILLED, *paths, "--workers", "0", "--threads", "1"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    (row,) = rows_of(tmp_path).values()
    assert row["recipe"] == "minmax"
    assert run("--constants", "published") == 0
    out = capsys.readouterr().out
    assert "minmax() 4 of 9 images on all of 6 seed=0 int8: there already" in out
    assert [row["recipe"] for row in rows_of(tmp_path).values()] == ["minmax", "base_ptq"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "ViT-B", "tiny"], "no published figure for ViT-B: expected test_vit.r160_in1k, tiny"),
        (["--bits", "W6A8", "--recipes", "minmax"], "no published figure has all of these"),
        (["--checkpoints", "nowhere"], "folder of checkpoints 'nowhere' does not exist"),
        (["--data", "nowhere"], "image folder 'nowhere' does not exist"),
        (["--out", "no/where.json"], "cannot write 'no/where.json'"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(
    arguments: list[str],
    message: str,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jobs, "FIGURES", (TINY_FIGURES[0], replace(TINY_FIGURES[1], a_bits=8)))
    monkeypatch.setattr(measure, "build_timm_model", forbid)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_interrupting_keeps_the_rows(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "calibrate_model", interrupt)
    assert run() == 130
    assert "run it again to go on" in capsys.readouterr().err
    assert rows_of(tmp_path) == {}
