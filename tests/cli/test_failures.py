"""Whatever goes wrong is one line and an exit code of its own; --debug shows where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.main import main
from fxquant.errors import InputError
from tests.support import documents


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("expected this, got that"), 2, "expected this, got that"),
        (OSError(28, "No space left on device"), 1, "OSError: No space left on device (--debug shows where)"),
        (TypeError("first line\nsecond line"), 1, "TypeError: first line (--debug shows where)"),
        (torch.OutOfMemoryError("1 GiB. Tip"), 2, "out of memory, try a smaller --batch-size: 1 GiB"),
        (MemoryError(), 2, "out of memory, try a smaller --batch-size: no memory is left"),
    ],
)
def test_one_line_unless_asked_for_more(
    error: Exception,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fxquant.load", fail)
    command = ["report", str(tmp_path / "a.safetensors")]
    assert main(command) == code
    assert capsys.readouterr().err == f"fxquant: error: {message}\n"
    assert main([*command, "--debug"]) == code
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith(f"\nfxquant: error: {message}\n")


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fxquant.cli.report", None)
    assert main(["report", "a.safetensors"]) == ExitCode.UNFORESEEN
    assert capsys.readouterr().err.startswith("fxquant: error: ModuleNotFoundError: import of fxquant.cli.report")


def test_an_interrupted_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fxquant.load", interrupt)
    for debug in ([], ["--debug"]):
        assert main(["report", "a.safetensors", *debug]) == ExitCode.INTERRUPTED
        assert capsys.readouterr().err == "fxquant: interrupted\n"


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    rows = next(
        table for table in documents.tables(documents.page("docs/command-line.md")) if table[0][0] == "exit code"
    )
    assert [int(row[0]) for row in rows[1:]] == list(ExitCode)
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out.partition("exit codes:")[2]
    assert all(f"{code:d} " in told for code in ExitCode)
