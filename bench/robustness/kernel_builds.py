"""Builds of a small C++ library that are killed, that happen at once, and whose results are damaged."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.robustness.forks import exit_code, kill_within, seconds_of, start
from bench.robustness.outcomes import Outcomes
from fxquant.kernels.cpu.build import compiler
from fxquant.kernels.cpu.kept_library import kept_library

_SOURCE = '#include <vector>\nextern "C" int answer() { return int(std::vector<int>(42).size()); }\n'


def kills(tries: int, seed: int, folder: Path) -> Outcomes:
    """Kill `tries` builds; the next one has to give a library that loads, and leave nothing else."""
    draw, found = random.Random(seed), Outcomes()
    with _cache(folder) as cache:
        seconds = seconds_of(lambda: kept_library("answer", "timed", _build, 1))
        for number in range(tries):
            key = f"key{number}"
            kill_within(lambda key=key: kept_library("answer", key, _build, 1), 1.2 * seconds, draw)  # type: ignore[misc]
            found.count(
                _answers(kept_library("answer", key, _build, 1)),
                "the next build gave a whole library",
                "it does not load",
            )
            left = [path for path in cache.iterdir() if path.name.startswith(".")]
            found.bad.update({"folders left after the next build": len(left)} if left else {})
    return found


def at_once(tries: int, seed: int, folder: Path) -> Outcomes:
    """Let two processes build the same library at once, `tries` times; one may build, both have to get it."""
    found = Outcomes()
    with _cache(folder):
        for number in range(tries):
            log, key = folder / f"log{number}", f"both{number}"

            def build(file: Path, log: Path = log) -> None:
                with log.open("a") as opened:
                    opened.write("built\n")
                _build(file)

            def take(key: str = key) -> None:
                if not _answers(kept_library("answer", key, build, 1)):
                    raise SystemExit(1)

            codes = [exit_code(process) for process in [start(take), start(take)]]
            once = log.read_text() == "built\n"
            found.count(codes == [0, 0] and once, "one built, both loaded it", "both built, or one failed")
    return found


def damaged(tries: int, seed: int, folder: Path) -> Outcomes:
    """Cut or change a kept library in `tries` ways; it has to be built again, and never to be loaded."""
    draw, found = random.Random(seed), Outcomes()
    with _cache(folder):
        whole = kept_library("answer", "damaged", _build, 1).read_bytes()
        for number in range(tries):
            file = kept_library("answer", "damaged", _copy(whole), 1)
            file.write_bytes(_damage(whole, number, draw))
            again = kept_library("answer", "damaged", _copy(whole), 1)
            found.count(again.read_bytes() == whole and _answers(again), "built again", "taken as it was")
    return found


def _damage(whole: bytes, number: int, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    if number % 3 == 0:
        return whole[:place]
    if number % 3 == 1:
        return whole[:place] + bytes((whole[place] ^ 1 << draw.randrange(8),)) + whole[place + 1 :]
    return draw.randbytes(place)


def _copy(content: bytes):  # type: ignore[no-untyped-def]
    return lambda file: file.write_bytes(content)


@contextmanager
def _cache(folder: Path) -> Iterator[Path]:
    """Keep libraries in `folder` for the length of the block, and let nobody speak of it."""
    before, quiet = os.environ.get("XDG_CACHE_HOME"), os.open(os.devnull, os.O_WRONLY)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    spoken = os.dup(2)
    os.dup2(quiet, 2)
    try:
        yield folder / "fxquant"
    finally:
        os.dup2(spoken, 2)
        os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


def _build(file: Path) -> None:
    program = compiler()
    if program is None:
        raise SystemExit("this needs a C++ compiler")
    source = file.with_suffix(".cpp")
    source.write_text(_SOURCE)
    environment = {**os.environ, "TMPDIR": str(file.parent)}
    subprocess.run([program, "-shared", "-fPIC", str(source), "-o", str(file)], check=True, env=environment)


def _answers(library: Path) -> bool:
    """Say whether a library loads and computes, in a process of its own."""
    return exit_code(start(lambda: os._exit(0 if ctypes.CDLL(str(library)).answer() == 42 else 1))) == 0
