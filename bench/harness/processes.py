"""A cell in a process of its own, so that its memory and its compiled code are its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping

from bench.harness.results import ROOT, Row


def run_module(
    module: str, *arguments: str, timeout: float | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run ``python -m module`` from the root, whatever the working folder; `timeout` (s) is that of `subprocess.run`.

    environment: variables that it has beside those of this process.
    """
    command = [sys.executable, "-m", module, *arguments]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT, env=variables
    )


def last_row(output: str) -> Row | None:
    """Return the row that a process printed as JSON, whatever others print around it; None where there is none."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    row: Row | None = json.loads(lines[-1]) if lines else None
    return row


def row_of(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Row:
    """Return the row that ``python -m module`` prints; raise `SystemExit` with what it says where it fails."""
    done = run_module(module, *arguments, environment=environment)
    row = last_row(done.stdout)
    if done.returncode or row is None:
        raise SystemExit(f"{' '.join((module, *arguments))} failed:\n{done.stderr}")
    return row


def peak_mib() -> float:
    """Return the peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
