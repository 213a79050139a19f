"""The command itself: help, recipes, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fxquant
from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.main import main
from fxquant.cli.options.recipe_descriptions import DESCRIPTIONS
from fxquant.cli.output import format_table
from fxquant.cli.recipes import recipe_defaults
from fxquant.errors import InputError
from fxquant.files import STANDARD_OUTPUT, json_report, write_json
from fxquant.measurement.option_values import format_value, recipe_option


def test_recipes_are_listed_with_a_line_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    lines = out.partition("\n\n")[0].splitlines()
    named = [line.split(maxsplit=1) for line in lines if not line.startswith(" ")]
    assert [name for name, _ in named] == list(fxquant.recipes())
    assert all(len(text.split()) > 0 for _, text in named)
    assert max(map(len, out.splitlines())) <= 120
    assert "alpha=0.99999 sigma=0.01 patch_embed=true head=true decoder=false attention=false" in out
    assert "\nmetric " in out


@pytest.mark.parametrize("name", fxquant.recipes())
def test_listed_defaults_change_nothing_and_are_read_back(name: str) -> None:
    defaults = recipe_defaults(name)
    assert {"patch_embed", "head", "attention"} <= set(defaults)
    read = dict(recipe_option(f"{option}={format_value(value)}") for option, value in defaults.items())
    assert read == defaults
    for option, value in read.items():
        assert fxquant.recipe(name, **{option: value}) == fxquant.recipe(name)
    assert DESCRIPTIONS[name]


def test_listed_options_are_the_recipes_own() -> None:
    assert recipe_defaults("base_ptq")["twin_gelu"] is False
    assert recipe_defaults("ptq4vit")["twin_gelu"] is True
    assert recipe_defaults("noisyquant")["noise"] == "fitted"
    assert "noise" not in recipe_defaults("ptq4vit")
    assert set(recipe_defaults("vanilla")) == {
        "patch_embed",
        "head",
        "decoder",
        "attention",
        *("strict_inputs", "float_dtype", "folds", "codes"),
    }


def test_recipes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json", "-"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [recipe["name"] for recipe in found["recipes"]] == list(fxquant.recipes())
    assert found["recipes"][3]["options"] == recipe_defaults(fxquant.recipes()[3])
    assert "\nmetric " in printed.err  # where text goes then


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as raised:
            main([option])
        assert raised.value.code == 0
    out = capsys.readouterr().out
    assert f"fxquant {fxquant.__version__}" in out
    assert all(f"\n    {command} " in out for command in ("eval", "bench", "demo", "report", "recipes"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["eval", "vit_tiny_patch16_224"],
        ["eval", "m", "--data", "d", "--calib", "0"],
        ["eval", "m", "--data", "d", "--workers", "-1"],
        ["eval", "m", "--data", "d", "--pretrained", "--checkpoint", "f"],
        ["eval", "m", "--data", "d", "--target", "int4"],
        ["eval", "m", "--data", "d", "--option", "published"],
        ["eval", "m", "--data", "d", "--option", "=true"],
        ["eval", "m", "--data", "d", "--memory", "0"],
        ["eval", "m", "--data", "d", "--memory", "inf"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_report_of_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    for file in ("bad.safetensors", "none.safetensors"):
        assert main(["report", str(tmp_path / file)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"fxquant: error: {tmp_path / file}: expected a")


def test_module_runs_and_survives_a_closed_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fxquant", "completion", "bash"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == ExitCode.UNREAD
    assert process.stderr.read() == b""
    process.stderr.close()


def test_table_aligns_names_left_and_numbers_right() -> None:
    assert format_table(["", "ms"], [["a", "1.5"], ["long", "10.25"]]) == "         ms\na       1.5\nlong  10.25"


def test_json_on_the_standard_output_is_alone_there(capsys: pytest.CaptureFixture[str]) -> None:
    with json_report(STANDARD_OUTPUT) as report:
        print("text")
        report["name"] = "ä"
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"name": "ä"}
    assert printed.err == "text\n"


def test_json_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "no" / "file.json", {})
    target = tmp_path / "folder"
    target.mkdir()
    (target / "in_it").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_json(target, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
