"""Shells complete commands, options and the names that options take, without starting Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fxquant.cli.main import COMMANDS, main
from fxquant.cli.options.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_knows_commands_options_and_recipes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    assert all(name in script for name in ("w-bits", "competitors", "openvino-int8", "noisyquant_ptq4vit", "bfloat16"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["ev"], {"eval"}),
        (["eval", "m", "--w-b"], {"--w-bits"}),
        (["eval", "m", "--recipe", "ptq"], {"ptq4vit"}),
        (["bench", "m", "--competitors", "openvino-int8-"], {"openvino-int8-bf16"}),
        (["report", "mod"], {"model.safetensors"}),
    ],
)
def test_bash_completes(typed: list[str], wanted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "model.safetensors").touch()
    words = " ".join(["fxquant", *typed])
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_fxquant; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == wanted
