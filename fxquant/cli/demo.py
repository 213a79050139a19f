"""``fxquant demo``: the path of `eval` on a small ViT and scikit-learn's handwritten digits, with timings."""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.cli.output import print_facts
from fxquant.cli.resolve import start_run
from fxquant.cli.rows import format_rows, format_timing
from fxquant.digits import load_calibration_digits, load_digits_vit, load_test_digits
from fxquant.errors import FxquantError
from fxquant.files import json_report
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.evaluation import measure_agreement
from fxquant.measurement.experiment import Row, Task, calibrate_model, compile_model, measure_converted, measure_float
from fxquant.measurement.timing import Timing, time_interleaved
from fxquant.progress import track

BITS = (8, 6, 4)
CALIBRATION_IMAGES = 128
EVALUATION_BATCH = 100
MAX_TIMING_SECONDS = 30.0  # where other work keeps the machine busy, fewer rounds have to do
FLOAT, BRAIN, INT8 = "float32", "bfloat16", "W8A8 int8"


def run(options: argparse.Namespace) -> None:
    """Measure accuracies, then times; print one table."""
    start_run(options)
    for bits in BITS:
        fxquant.recipe(options.recipe, bits, bits)  # is there such a recipe
    with json_report(options.json) as report:
        _run(options, report)


def _run(options: argparse.Namespace, report: dict[str, Any]) -> None:
    start = time.perf_counter()
    task = _digits_task(options.seed)
    print_facts(_describe(options, task))
    rows, quantised = _measure_rows(task, options.recipe)
    report |= _as_json(options, rows)
    timings = _measure_times(task, quantised, options)
    seconds = time.perf_counter() - start
    timed = next(timing for timing in timings["eager"].values() if isinstance(timing, Timing))
    print("\n" + format_rows(rows, {f"ms {kind}": _timing_cells(t, options) for kind, t in timings.items()}))
    print(
        f"\nms: per image in a batch of {options.batch_size}, median of {len(timed.seconds)} interleaved rounds, CPU threads: "
        f"{torch.get_num_threads()}.\nint8 MACs: share of multiply-accumulates on int8; 6 and 4 bits run the same products "
        f"as 8.\nagree: same class as float32. Took {seconds:.0f} s."
    )
    report |= {"timings": _timings_as_json(timings), "total_seconds": seconds}


def _digits_task(seed: int) -> Task:
    calibration, test = load_calibration_digits(CALIBRATION_IMAGES), load_test_digits()
    return Task(
        load_digits_vit(),
        list(calibration.batches(CALIBRATION_IMAGES // 4)),
        list(test.batches(EVALUATION_BATCH)),
        torch.device("cpu"),
        torch.float32,
        seed,
    )


def _describe(options: argparse.Namespace, task: Task) -> dict[str, str]:
    parameters = sum(p.numel() for p in task.model.parameters())
    images = sum(len(labels) for _, labels in task.evaluation)
    environment = describe_environment()
    return {
        "model": f"packaged ViT, {parameters / 1e6:.2f} M parameters, images 1x32x32",
        "calibrate": f"{CALIBRATION_IMAGES} images of the train part, recipe {options.recipe}, seed {options.seed}",
        "evaluate": f"{images} images that training never saw",
        "machine": f"{environment['processor']}, torch {environment['torch']}",
    }


def _measure_rows(task: Task, recipe: str) -> tuple[list[Row], fx.GraphModule]:
    """Return the lines of the table and the W8A8 int8 model."""
    reference = measure_float(task, FLOAT)
    brain = measure_float(_in_bfloat16(task), BRAIN)
    agreement = measure_agreement(brain.evaluation, reference.evaluation)
    rows = [reference, Row(BRAIN, brain.evaluation, agreement, brain.size)]
    models: dict[str, fx.GraphModule] = {}
    for bits in BITS:
        prepared, _ = calibrate_model(task, fxquant.recipe(recipe, bits, bits))
        for target in ("fake", "int8"):
            name = f"W{bits}A{bits} {target}"
            models[name], row = measure_converted(task, prepared, reference.evaluation, name, target=target)
            rows.append(row)
    return rows, models[INT8]


def _measure_times(
    task: Task, quantised: fx.GraphModule, options: argparse.Namespace
) -> dict[str, dict[str, Timing | str]]:
    """Return timings by kind (eager, compiled) and row, or the reason where there is none."""
    images = torch.cat([images for images, _ in task.evaluation])
    images = images.repeat(-(-options.batch_size // len(images)), 1, 1, 1)[: options.batch_size]  # (B, 1, 32, 32)
    models: dict[str, tuple[nn.Module, Tensor, Callable[..., Any]]] = {
        FLOAT: (task.model, images, torch.compile),
        BRAIN: (_in_bfloat16(task).model, images.bfloat16(), torch.compile),
        INT8: (quantised, images, fxquant.compile),
    }
    competitors = {("eager", name): _Call(model, x) for name, (model, x, _) in models.items()}
    result: dict[str, dict[str, Timing | str]] = {"eager": {}}
    if not options.no_compile:
        result["compiled"] = {}
        for name, (model, x, compiler) in track(models.items(), "compile", "model", leave=False):
            try:
                competitors["compiled", name] = _Call(compile_model(model, compiler, x), x)
            except FxquantError as error:
                result["compiled"][name] = str(error)
    calls = {" ".join(key): call for key, call in competitors.items()}
    timed = time_interleaved(calls, rounds=options.rounds, max_seconds=MAX_TIMING_SECONDS)
    for kind, name in competitors:
        result[kind][name] = timed[f"{kind} {name}"]
    return result


class _Call:
    """Run a model on the same images without gradients."""

    def __init__(self, model: Any, images: Tensor) -> None:
        self.model = model
        self.images = images

    def __call__(self) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.model(self.images)
        return output


def _in_bfloat16(task: Task) -> Task:
    model: nn.Module = copy.deepcopy(task.model).to(torch.bfloat16)
    return Task(model, task.calibration, task.evaluation, task.device, torch.bfloat16, task.seed)


def _timing_cells(timings: dict[str, Timing | str], options: argparse.Namespace) -> dict[str, str]:
    return {
        name: format_timing(timing, options.batch_size) if isinstance(timing, Timing) else _short(timing)
        for name, timing in timings.items()
    }


def _short(reason: str) -> str:
    return reason.removeprefix("torch.compile failed: ")[:20]


def _timings_as_json(timings: dict[str, dict[str, Timing | str]]) -> dict[str, Any]:
    def of(timing: Timing | str) -> dict[str, Any]:
        if isinstance(timing, str):
            return {"failed": timing}
        lower, upper = timing.quartiles
        return {"median_seconds": timing.median, "quartiles_seconds": [lower, upper], "seconds": list(timing.seconds)}

    return {kind: {name: of(t) for name, t in values.items()} for kind, values in timings.items()}


def _as_json(options: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    return {
        "command": "demo",
        "recipe": options.recipe,
        "seed": options.seed,
        "calibration_images": CALIBRATION_IMAGES,
        "results": [row.as_json() for row in rows],
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "environment": describe_environment(),
    }
