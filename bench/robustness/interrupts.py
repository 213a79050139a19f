"""Ctrl-C at random moments of a command, once or twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.harness.results import ROOT
from bench.robustness.outcomes import Outcomes
from fxquant.digits import load_test_digits

_MODEL = ("vit_tiny_patch16_224", "--img-size", "32", "--num-classes", "2")


def run(tries: int, seed: int, folder: Path) -> Outcomes:
    """
    Interrupt `tries` trainings, every second one twice; each has to end quietly, and to leave a checkpoint or no folder.
    """
    draw, found = random.Random(seed), Outcomes()
    _write_images(folder / "data")
    seconds = _seconds(folder)
    for number in range(tries):
        out = folder / f"run{number}"
        process = _start(folder, out)
        time.sleep(draw.uniform(0.3, seconds))  # before that Python itself starts, which nobody can make quiet
        process.send_signal(signal.SIGINT)
        if number % 2:
            time.sleep(draw.uniform(0, 0.3))
            process.send_signal(signal.SIGINT)
        _, spoken = process.communicate(timeout=120)
        # By the signal itself where the interpreter had already ended the handler.
        quiet = process.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in spoken
        whole = not out.exists() or bool(list(out.iterdir()))
        trouble = (
            "left an empty folder" if not whole else f"ended with {process.returncode}: {spoken.splitlines()[-1:]}"
        )
        found.count(quiet and whole, "ended quietly", trouble)
    return found


def _write_images(folder: Path) -> None:
    from PIL import Image

    digits = load_test_digits()
    for part, first in (("train", 0), ("val", 20)):
        for number in range(first, first + 12):
            place = folder / part / str(number % 2)
            place.mkdir(parents=True, exist_ok=True)
            pixels = digits.images[number, 0]
            scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
            Image.fromarray(scaled.byte().numpy()).convert("RGB").save(place / f"{number}.png")


def _start(folder: Path, out: Path) -> subprocess.Popen[str]:
    options = ("--epochs", "3", "--batch-size", "4", "--warmup-epochs", "0", "--workers", "0", "--out", str(out))
    command = [sys.executable, "-m", "fxquant", "train", *_MODEL, "--data", str(folder / "data"), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def _seconds(folder: Path) -> float:
    began = time.perf_counter()
    process = _start(folder, folder / "whole")
    _, spoken = process.communicate()
    if process.returncode:
        raise SystemExit(f"a training that nobody interrupted ended with {process.returncode}:\n{spoken}")
    return time.perf_counter() - began
