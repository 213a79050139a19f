"""The server of `examples/serve` as a process."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.results import ROOT
from bench.serving.client import health

START, END = 600.0, 60.0  # seconds that it may take to compile, and to stop


@dataclass(frozen=True)
class Server:
    """A server that answers. start_seconds: how long it took to load and compile the model."""

    port: int
    start_seconds: float

    def seen(self) -> tuple[int, int]:
        """Return how many batches and images the model has seen."""
        found = health(self.port)
        if found is None:
            raise SystemExit("the server answers no more")
        return found["batches"], found["images"]


@contextlib.contextmanager
def serving(file: Path, threads: int, most: int, wait: float) -> Iterator[Server]:
    """
    Start a server of a saved model, and stop it as a supervisor would.

    most, wait: images of a batch, and milliseconds that the first waits for others. Raises `SystemExit` where it does not
    start, or does not stop.
    """
    port, start = _free_port(), time.monotonic()
    options = {"port": port, "threads": threads, "max-batch": most, "max-wait": wait}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "examples.serve.server", str(file), *words], cwd=ROOT)
    try:
        while health(port) is None:
            if process.poll() is not None or time.monotonic() > start + START:
                raise SystemExit(f"the server of {file} did not start: it ended with {process.returncode}")
            time.sleep(0.1)
        yield Server(port, time.monotonic() - start)
        process.send_signal(signal.SIGTERM)
        if process.wait(END) not in (0, -signal.SIGTERM):
            raise SystemExit(f"the server of {file} ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
