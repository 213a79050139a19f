"""Start a worker, count what it says, keep the files of findings, and start another where it crashes or hangs."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.fuzz.trial import FINE
from bench.harness.results import ROOT
from fxquant.files import write_json

LIMIT = 5.0  # seconds for a file, of the processor: others may be at work on the machine
WAIT = 12 * LIMIT  # seconds by the clock
_LONG = 300.0  # for the start of a worker, and where inductor runs


class Watch:
    """The files ``first, first + workers, ...`` of a run, and the process that tries them."""

    def __init__(self, folder: Path, seed: int, first: int, workers: int, files: int, sample: int) -> None:
        self.folder, self.seed, self.step, self.files, self.sample = folder, seed, workers, files, sample
        self.state = folder / f"state_{seed}_{first}_{workers}_{sample}.json"
        saved = json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        self.next: int = saved.get("next", first)
        self.counts: dict[str, int] = saved.get("counts", {})
        self.process: subprocess.Popen[bytes] | None = None
        self.text, self.current, self.since, self.worked = b"", dict[str, Any](), 0.0, 0.0
        (folder / "findings").mkdir(exist_ok=True)

    @property
    def done(self) -> bool:
        """Whether all files were tried."""
        return self.next >= self.files

    def poll(self) -> None:
        """Read what the worker says, for a tenth of a second at most; replace it where it is gone or takes too long."""
        if self.done:
            return
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdout is not None  # noqa: PT018
        if select.select([self.process.stdout], [], [], 0.1)[0]:
            data = os.read(self.process.stdout.fileno(), 2**16)
            self.text += data
            *lines, self.text = self.text.split(b"\n")
            for line in lines:
                self._take(json.loads(line))
            if not data:
                self._end(f"crash {self.process.wait()}" if self.current else "worker")
        elif self._hangs():
            self._end("hang")

    def _hangs(self) -> bool:
        waited = time.monotonic() - self.since
        if not self.current or self._is_sampled(self.current):
            return waited > _LONG
        return waited > WAIT or (waited > LIMIT and self._seconds() - self.worked > LIMIT)

    def _is_sampled(self, line: dict[str, Any]) -> bool:
        return self.sample > 0 and line["index"] // self.step % self.sample == 0

    def _seconds(self) -> float:
        """Return the processor time that the worker has taken."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _start(self) -> None:
        arguments = (self.seed, self.next, self.files, self.step, self.sample, self.folder)
        command = [sys.executable, "-m", "bench.fuzz.worker", *map(str, arguments)]
        with (self.folder / "errors.txt").open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)
        self.text, self.current, self.since = b"", {}, time.monotonic()

    def _end(self, outcome: str) -> None:
        """Count what a worker stopped at, and let the next one go on behind it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        if self.current:
            self._count({"index": self.current["index"], "outcome": outcome.split()[0], "said": outcome})
        elif outcome == "worker" and not self.done:
            raise SystemExit(f"a worker stopped outside of a file: see {self.folder / 'errors.txt'}")

    def _take(self, line: dict[str, Any]) -> None:
        self.since = time.monotonic()
        if "outcome" not in line:
            self.current, self.worked = line, self._seconds()
        else:
            self._count(line)
            self.current = {}

    def _count(self, line: dict[str, Any]) -> None:
        outcome = line["outcome"]
        sampled = self._is_sampled(line)
        if line.get("seconds", 0) > LIMIT and not sampled:
            outcome = "hang"
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        if sampled and outcome == "ran":
            self.counts["inductor"] = self.counts.get("inductor", 0) + 1
        if outcome not in FINE:
            name = self.folder / "findings" / f"{outcome}_{self.seed}_{line['index']}"
            if "seconds" not in line:  # the worker is gone, and its last file is still there
                shutil.copy(self.folder / self.current["file"], name.with_suffix(".safetensors"))
            write_json(name.with_suffix(".json"), self.current | line)
        self.next = line["index"] + self.step
        if line["index"] // self.step % 100 == 0 or self.done:
            write_json(self.state, {"next": self.next, "counts": self.counts})
