"""Ctrl-C while the command still imports ends it quietly; what nobody foresaw is one line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.interrupts import ended_by_interrupt
from fxquant.errors import reason_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("swallowed", ["", "except BaseException: pass"])
def test_an_interrupted_import_ends_quietly(swallowed: str) -> None:
    imported = (
        "try: time.sleep(60)\n    except BaseException: pass\n    time.sleep(60)" if swallowed else "time.sleep(60)"
    )
    code = (
        "import signal, time; from fxquant.cli.interrupts import ended_by_interrupt\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"with ended_by_interrupt():\n    print('importing', flush=True)\n    {imported}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "fxquant: interrupted\n")
    assert process.returncode == ExitCode.INTERRUPTED


def test_the_handler_before_comes_back() -> None:
    before = signal.default_int_handler
    signal.signal(signal.SIGINT, before)  # whatever an interrupted command has left
    with ended_by_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("Error while serializing: I/O error: no space (os error 28)"), "No space left on device"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1"), "it could not be written whole"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "it is no whole file of torch.save"),
        (EOFError(), "it is no whole file of torch.save"),
        (
            ValueError("Weights only load failed. Re-run\n WeightsUnpickler error: \nUnsupported operand 149"),
            "no whole file",
        ),
        (
            ValueError("Unsupported global: GLOBAL os.system was not an allowed"),
            "it asks for os.system, which is not run",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
            "12 bytes were asked",
        ),
        (
            ValueError("Error while deserializing header: header too large"),
            "no whole safetensors file (header too large)",
        ),
        (KeyError(), "KeyError"),
    ],
)
def test_reasons_are_without_advice_that_does_not_apply(error: Exception, reason: str) -> None:
    assert reason in reason_of(error)
    assert "weights_only" not in reason_of(error)
