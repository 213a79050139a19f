"""What ``bench.latency`` measures: models by batch, threads and instructions, all engines of a cell interleaved."""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxquant
from bench.harness.processes import row_of
from bench.harness.results import Row, RowsFile, describe_run
from bench.latency.isas import ISAS, NATIVE, environment_of, in_use
from bench.latency.table import FORMAT
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors import BASELINE
from fxquant.benchmark.run_engines import run_batch
from fxquant.benchmark.subject import Subject

MODELS = ("vit_base_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224")
BATCHES = (1, 8, 64)
RECIPE = "minmax"
CALIBRATION_IMAGES = 32
_RECIPE = f"{RECIPE} W8A8, {CALIBRATION_IMAGES} random images"


@dataclass(frozen=True)
class LatencyCell:
    """One measurement. isa: one of `bench.latency.isas.ISAS`."""

    model: str
    batch: int
    threads: int
    isa: str = NATIVE

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, threads {self.threads}, {self.isa}"


def _place(row: Row) -> Any:
    known = row["model"] in MODELS
    model = MODELS.index(row["model"]) if known else len(MODELS)
    return list(ISAS).index(row["isa"]), model, "" if known else row["model"], row["batch"], row["threads"]


ROWS = RowsFile(
    "latency",
    ("model", "batch", "threads", "isa"),
    {"format": FORMAT, "recipe": _RECIPE, "seed": 0, "baseline": BASELINE.name},
    _place,
)


def make_subject(model_name: str, batch: int, **options: Any) -> tuple[Subject, Tensor]:
    """Return a model with random weights and a random batch ``(B, 3, H, W)``; options are those of `timm.create_model`."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(model_name, **options).eval()
    size = tuple(timm.data.resolve_model_data_config(model)["input_size"])
    if "img_size" in options:
        size = (size[0], options["img_size"], options["img_size"])
    calibration, images = torch.randn(CALIBRATION_IMAGES, *size), torch.randn(batch, *size)
    return Subject(model, calibration, fxquant.recipe(RECIPE)), images


def run_cell(
    model_name: str,
    batch: int,
    rounds: int,
    competitors: Sequence[Competitor],
    max_seconds: float = math.inf,
    **options: Any,
) -> Row:
    """Measure one model at one batch size; nothing of it stays in memory. max_seconds: see `run_batch`."""
    gc.collect()
    subject, images = make_subject(model_name, batch, **options)
    name = f"{model_name} batch {batch}"
    outcomes = run_batch(subject, images, competitors, rounds, name, max_seconds=max_seconds)
    own = any(competitor.name.startswith("fxquant") for competitor in competitors)
    return {
        "model": model_name,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # processes that wanted to run: near the number of threads if alone
        "int8_file_bytes": os.path.getsize(subject.file(torch.bfloat16)) if own else None,
        "results": {outcome.name: outcome.as_json(batch) for outcome in outcomes},
    }


def measure_cell(cell: LatencyCell, rounds: int, competitors: Sequence[Competitor], max_seconds: float) -> Row:
    """Measure a cell in this process, whose environment is that of the cell's instructions."""
    torch.set_num_threads(cell.threads)
    run = describe_run()
    row = run_cell(cell.model, cell.batch, rounds, competitors, max_seconds)
    measured = {"date": run["date"], "commit": run["commit"], "machine": run["environment"]["processor"]}
    return row | {"isa": cell.isa, "in_use": in_use()} | measured


def measure_in_process(cell: LatencyCell, rounds: int, names: Sequence[str], max_seconds: float) -> Row:
    """Measure a cell in a process of its own, which compiles everything anew; raise `SystemExit` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**environment_of(cell.isa), "TORCHINDUCTOR_CACHE_DIR": folder}
        limits = ("--rounds", str(rounds), "--minutes", str(max_seconds / 60), "--competitors", *names)
        return row_of("bench.latency", "--cell", json.dumps(asdict(cell)), *limits, environment=environment)


def find_measured(cell: LatencyCell, rounds: int) -> Row | None:
    """Return the row of a cell that this commit measured on this machine, in as many rounds; None where there is none."""
    run = describe_run()
    wanted = {**asdict(cell), "machine": run["environment"]["processor"], "rounds": rounds}
    for row in ROWS.read():
        same_commit = _clean(row["commit"]) == _clean(run["commit"])
        if same_commit and all(row[name] == value for name, value in wanted.items()):
            return row
    return None


def _clean(commit: str) -> str:
    """Return the name of a commit alone: the results, which are in the repository, change while they are measured."""
    return commit.removesuffix("-dirty")
