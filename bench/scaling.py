"""
How much faster calibration and evaluation become with 1, 2, 4, ... processes on one machine, and whether results stay equal.

Processes are started as torchrun starts them: by gloo with one thread each on the CPU, by nccl with a GPU each on CUDA. The
model has random weights and the images are random, as times do not depend on them.

    python -m bench.scaling [--processes 1 2 4] [--recipes omse ptq4vit noisyquant] [--device cuda]
                                                                    # adds to bench/results/scaling.json
    python -m bench.scaling --smoke                                 # two small rounds, printed only
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import fxquant
from bench.harness.results import RowsFile
from fxquant.distributed import gather_objects, initialise, shard
from fxquant.measurement.evaluation import evaluate
from fxquant.measurement.option_values import positive

RECIPES = ("omse", "ptq4vit", "noisyquant")
ROWS = RowsFile("scaling", ("recipe", "model", "device", "processes"), {"threads_per_process": 1, "bits": "W8A8"})


@dataclass(frozen=True)
class ScalingTask:
    """What each process is given."""

    recipe: str
    model: str
    options: dict[str, Any]
    size: int
    calibration: int
    evaluation: int
    batch: int
    device: str


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each recipe with each number of processes; write or print the rows."""
    options = parse(argv)
    task = ScalingTask(
        "", options.model, {}, 224, options.calibration, options.evaluation, options.batch, options.device
    )
    if options.smoke:
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        task = replace(task, model="vit_tiny_patch16_224", options=small, size=32, calibration=6, evaluation=6, batch=2)
    rows: list[dict[str, Any]] = []
    for recipe in options.recipes:
        found = [launch(replace(task, recipe=recipe), processes) for processes in options.processes]
        for row in compare(found):
            print(describe(row), flush=True)
            rows.append(row)
        if not options.smoke:
            ROWS.add(*rows)
    if not all(row["equal"] for row in rows):
        raise SystemExit("processes do not give what one gives")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count = torch.cuda.device_count() or os.cpu_count() or 1
    usual = [1 << i for i in range(count.bit_length())]
    parser.add_argument("--processes", type=positive, nargs="+", default=usual, metavar="N", help="(%(default)s)")
    parser.add_argument("--recipes", nargs="+", choices=fxquant.recipes(), default=RECIPES, metavar="NAME")
    parser.add_argument("--model", default="deit_tiny_patch16_224", metavar="NAME", help="timm name (%(default)s)")
    parser.add_argument("--calibration", type=positive, default=32, metavar="N", help="images (%(default)s)")
    parser.add_argument("--evaluation", type=positive, default=256, metavar="N", help="images (%(default)s)")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="images per batch (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a small model and few images, to see that it runs")
    return parser.parse_args(argv)


def launch(task: ScalingTask, processes: int) -> dict[str, Any]:
    """Return what rank 0 of so many processes measured."""
    os.environ["OMP_NUM_THREADS"] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="scaling",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    results: dict[int, dict[str, Any]] = elastic_launch(config, measure)(task)
    return {"processes": processes, **results[0]}


def measure(task: ScalingTask) -> dict[str, Any]:
    """Calibrate and evaluate in this process and those of its group, and return the seconds and a digest of the results."""
    torch.set_num_threads(1)
    with initialise(task.device) as device:
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(task.model, **task.options).eval().to(device)
        random = torch.Generator().manual_seed(0)
        images, shown = (
            torch.randn(count, 3, task.size, task.size, generator=random).split(task.batch)
            for count in (task.calibration, task.evaluation)
        )
        prepared = fxquant.prepare(model, fxquant.recipe(task.recipe), images[0].to(device))
        with torch.no_grad():
            model(images[0].to(device))
        gather_objects(None)  # start together
        start = time.perf_counter()
        fxquant.calibrate(prepared, shard(images), progress=False)
        calibrated = time.perf_counter()
        labelled = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in shown]
        evaluation = evaluate(model, shard(labelled), device=device, shared=True)
        done = time.perf_counter()
    return {
        "recipe": task.recipe,
        "model": task.model,
        "device": task.device,
        "images": [task.calibration, task.evaluation],
        "batch": task.batch,
        "calibration_s": round(calibrated - start, 3),
        "evaluation_s": round(done - calibrated, 3),
        "digest": digest([*prepared.state_dict().values(), evaluation.predictions]),
    }


def digest(tensors: Sequence[Tensor]) -> str:
    """Return a hash of the bytes of all tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def compare(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add how many times faster than the first each is, and whether it gave the same."""
    first = found[0]
    return [
        row
        | {
            "calibration_speedup": round(first["calibration_s"] / row["calibration_s"], 2),
            "evaluation_speedup": round(first["evaluation_s"] / row["evaluation_s"], 2),
            "equal": row["digest"] == first["digest"],
        }
        for row in found
    ]


def describe(row: dict[str, Any]) -> str:
    """Return a line for the terminal."""
    return (
        f"{row['recipe']:12} {row['processes']:3} processes: calibration {row['calibration_s']:8.2f} s "
        f"(x{row['calibration_speedup']:.2f}), evaluation {row['evaluation_s']:8.2f} s (x{row['evaluation_speedup']:.2f}), "
        f"{'equal' if row['equal'] else 'DIFFERENT'}"
    )


if __name__ == "__main__":
    main()
