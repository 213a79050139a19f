"""A disk that is full at some byte of the file that is written, for which a limit of the process stands in."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path

import fxquant
from bench.robustness.forks import exit_code, start
from bench.robustness.outcomes import Outcomes
from bench.robustness.subjects import int8_model
from fxquant.errors import FxquantError
from fxquant.files import write_json
from fxquant.training.state_file import StateFile


def run(tries: int, seed: int, folder: Path) -> Outcomes:
    """Write models, checkpoints of trainings and reports past a limit, `tries` times; the old file has to stay, and alone."""
    draw, found = random.Random(seed), Outcomes()
    writers = list(_writers(folder).values())
    sizes = [_write(folder / str(n), writer) for n, writer in enumerate(writers)]
    for number in range(tries):
        kind = number % len(writers)
        place, (file, size) = folder / str(kind), sizes[kind]
        before, limit = file.read_bytes(), draw.randrange(size)
        code = exit_code(start(lambda kind=kind, limit=limit, place=place: _limited(writers[kind], place, limit)))  # type: ignore[misc]
        kept = file.read_bytes() == before and not [p for p in place.iterdir() if p.name.startswith(".")]
        found.count(
            kept and code == 0, "refused, the old file stayed", "the old file was lost" if not kept else "not refused"
        )
    return found


def _writers(folder: Path) -> dict[str, Callable[[Path], object]]:
    model = int8_model()
    state = {"model": model.state_dict(), "progress": {"step": 1}}

    return {
        "model.safetensors": lambda place: fxquant.save(model, place / "model.safetensors"),
        "report.json": lambda place: write_json(place / "report.json", {"rows": list(range(2000))}),
        "checkpoint.pt": lambda place: StateFile(place / "checkpoint.pt", {}, 0.0).write(state),
    }


def _write(place: Path, writer: Callable[[Path], object]) -> tuple[Path, int]:
    """Return the largest file that a writer leaves, and its size."""
    place.mkdir()
    code = exit_code(start(lambda: writer(place)))
    if code:
        raise SystemExit(f"a writer that nothing limited ended with {code}")
    file = max(place.iterdir(), key=lambda path: path.stat().st_size)
    return file, file.stat().st_size


def _limited(writer: Callable[[Path], object], place: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        writer(place)
    except FxquantError:
        return
    raise SystemExit(1)
