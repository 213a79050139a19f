"""`fxquant bench`: one table per batch size with everybody in it, and a file that says how it came about."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fxquant
from fxquant.benchmark.competitors import BASELINE, COMPETITORS
from fxquant.cli.main import main
from fxquant.cli.options.bench import BASELINE as NAME_OF_BASELINE
from fxquant.cli.options.bench import ENGINES
from tests.support.folders import MODEL

SMALL = ["--img-size", "32", "--num-classes", "3", "--calib", "4", "--rounds", "2", "--recipe", "minmax"]


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(model: Any) -> Any:
        return model

    # Garbage is collected before memory is measured, which in a process full of compilers takes most of the time.
    monkeypatch.setattr("fxquant.benchmark.memory.gc", SimpleNamespace(collect=lambda: 0))
    monkeypatch.setattr(torch, "compile", unchanged)
    monkeypatch.setattr(fxquant, "compile", fxquant.load)


def bench(*arguments: object) -> int:
    return main(["bench", MODEL, *SMALL, *map(str, arguments)])


def test_tables_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, threads = tmp_path / "bench.json", torch.get_num_threads()
    options = ["--batch", 1, 3, "--competitors", "fxquant", "fp32", "--threads", threads, "--seed", 5]
    assert bench(*options, "--option", "head=false", "--json", written) == 0
    out = capsys.readouterr().out
    for line in (
        "weights    RANDOM",
        "input      3x32x32, random, seed 5",
        "recipe minmax, head=false, W8A8",
        "timing     ",
    ):
        assert line in out
    table = out[out.index("batch 3\n") :].splitlines()
    assert table[1].split("  ")[-1].strip() == "SQNR dB"
    assert [line.split()[0] for line in table[2:5]] == ["fp32", "bf16-compile", "fxquant"]
    assert "blocks.*.mlp.fc1 x" in out
    assert max(map(len, table[1:5])) <= 120

    data = json.loads(written.read_text())
    assert [cell["batch"] for cell in data["batches"]] == [1, 3]
    assert data["baseline"] == "bf16-compile"
    assert data["recipe"] == {"name": "minmax", "options": {"head": False}, "w_bits": 8, "a_bits": 8}
    assert data["environment"]["threads"] == threads
    results = {result["name"]: result for result in data["batches"][1]["results"]}
    assert set(results) == {"fp32", "bf16-compile", "fxquant"}
    assert results["fxquant"]["products"]["int8"] > results["fxquant"]["products"]["float32"]
    assert results["bf16-compile"]["times_faster_than_bf16-compile"] == 1
    assert all(len(result["seconds"]) == 2 for result in results.values())
    assert {line["name"]: line["int8"] for line in data["products"]}["head"] is False
    assert data["batches"][0]["profile"] is None


def test_profile_attributes_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "bench.json"
    assert bench("--batch", 2, "--competitors", "bf16-compile", "--profile", "--json", written) == 0
    out = capsys.readouterr().out
    assert "where the time goes: fxquant, batch 2" in out
    assert "products of the int8 model" not in out  # no such model was timed
    profile = json.loads(written.read_text())["batches"][0]["profile"]
    assert set(profile) == {"fxquant", "fxquant-compile", "bf16", "bf16-compile"}
    for classes in profile.values():
        assert sum(found["share"] for found in classes.values()) == pytest.approx(1, abs=1e-3)


def test_what_is_not_installed_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bench("--batch", 1, "--competitors", "openvino-int8", "pt2e") == 0
    out = capsys.readouterr().out
    assert "openvino-int8: not installed (openvino, nncf): pip install openvino nncf" in out
    assert "pt2e: not installed (torchao): pip install torchao" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nope"], "unknown recipe 'nope'"),
        (["--w-bits", 1], "bits"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--json", "/no/such/folder/file.json"], "cannot write"),
    ],
)
def test_bad_input_is_named(arguments: list[object], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("fxquant: error: ")
    assert message in err


def test_unknown_models_get_close_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "vit_tinny_patch16_224"]) == 2
    assert "close: vit_tiny_patch16_224" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--batch", "0"], ["--rounds", "0"], ["--threads", "-1"], ["--batch", "x"], ["--competitors", "tensorrt"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["bench", MODEL, *arguments])
    assert raised.value.code == 2


def test_the_command_line_knows_every_competitor() -> None:
    assert tuple(competitor.name for competitor in COMPETITORS) == ENGINES
    assert BASELINE.name == NAME_OF_BASELINE


@pytest.mark.parametrize(
    ("given", "timed"),
    [([], ENGINES), (["all"], ENGINES), (["fp32", "all"], ENGINES), (["pt2e"], ("bf16-compile", "pt2e"))],
)
def test_all_are_every_competitor(given: list[str], timed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run_batch(subject: Any, images: Any, competitors: Any, *_: Any) -> list[Any]:
        seen.extend(competitors)
        return []

    monkeypatch.setattr("fxquant.cli.bench.run_batch", run_batch)
    assert bench("--batch", 1, *(["--competitors", *given] if given else [])) == 0
    assert tuple(competitor.name for competitor in seen) == timed
