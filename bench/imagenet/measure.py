"""Measure one row of ``bench.imagenet``."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

import fxquant
from bench.harness.results import Row, describe_run
from bench.imagenet.images import synthetic_images
from bench.imagenet.jobs import Job
from bench.imagenet.page import describe_gap
from bench.imagenet.results import ImagenetResults, is_done
from fxquant.data.batches import ImageBatches, TensorBatches, resolve_data_config
from fxquant.data.folder import ImageTree, Samples, check_classes, draw_images
from fxquant.distributed import make_current, resolve_device
from fxquant.errors import InputError
from fxquant.measurement.evaluation import evaluate
from fxquant.measurement.experiment import Task, calibrate_model, measure_float
from fxquant.models.timm_model import TimmModel, build_timm_model


class Bench:
    """Measure jobs one after the other, keeping the model and the float result that the next one may need."""

    def __init__(self, options: argparse.Namespace, tree: ImageTree, results: ImagenetResults) -> None:
        self.options = options
        self.tree = tree
        self.results = results
        self.device = resolve_device(options.device)
        make_current(self.device)
        self._source: tuple[str, TimmModel] | None = None
        self._floats: set[str] = set()  # used by this process before

    def run(self, job: Job) -> Row:
        """Measure one job and return its row; an error becomes a row too."""
        start = time.perf_counter()
        head: Row = {
            "table": job.figure.table,
            "method": job.figure.method,
            "model": job.figure.model.tag,
            "w_bits": job.figure.w_bits,
            "a_bits": job.figure.a_bits,
            "recipe": job.figure.recipe,
            "constants": job.constants,
            "options": job.options,
            "calibration_images": job.calibration,
            "calibration_batch": job.figure.batch,
            "synthesis": job.synthesis,
            "limit": job.limit,
            "seed": job.seed,
            "target": job.target,
            "published": {"float": job.figure.float_top1, "top1": job.figure.top1, "source": job.figure.source},
        }
        try:
            measured = self._measure(job)
        except Exception as error:  # whatever it is, the other rows can still be had
            measured = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"}
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return head | measured | {"seconds": round(time.perf_counter() - start, 1), **describe_run()}

    def _measure(self, job: Job) -> Row:
        options, figure = self.options, job.figure
        config = fxquant.recipe(figure.recipe, figure.w_bits, figure.a_bits, **job.options)
        source = self._load(figure.model.tag)
        check_classes(self.tree, source.num_classes)
        drawn, left = draw_images(self.tree, job.drawn, job.limit, job.seed)
        evaluation = ImageBatches(left, resolve_data_config(source.model), options.batch_size, options.workers)
        calibration = self._calibration(job, source, drawn)
        task = Task(source.model, calibration, evaluation, self.device, torch.float32, job.seed)
        reference = self._measure_float(job, task)
        trained = {"iterations": config.reconstruction} if config.reconstruction else None
        prepared, seconds = calibrate_model(task, config, options.memory, trained)
        gm = fxquant.convert(prepared, job.target)  # type: ignore[arg-type]
        result = evaluate(gm, evaluation, device=self.device, description=figure.method)
        return {
            "float": reference,
            "top1_percent": result.top1,
            "top5_percent": result.top5,
            "images": result.count,
            "unreadable": evaluation.unreadable.as_json(),
            "int8_coverage": fxquant.report(gm).coverage if job.target == "int8" else None,
            "calibration_seconds": round(seconds, 1),
            "weights": source.weights,
        }

    def _calibration(self, job: Job, source: TimmModel, drawn: Samples) -> ImageBatches | TensorBatches:
        """Return the calibration images in the published batches: those that were drawn, or synthetic ones."""
        config, options = resolve_data_config(source.model), self.options
        batch = job.figure.batch or options.batch_size
        if job.synthesis is None:
            return ImageBatches(drawn, config, batch, options.workers)
        folder = options.out.with_suffix(".images")
        images = synthetic_images(folder, source, job.calibration, config.input_size, job.seed, job.synthesis)
        return TensorBatches(images, batch)

    def _load(self, tag: str) -> TimmModel:
        if self._source is None or self._source[0] != tag:
            self._source = None  # two large models need not be there at once
            file = find_checkpoint(self.options.checkpoints, tag) if self.options.checkpoints else None
            source = build_timm_model(tag, pretrained=file is None, checkpoint=file)
            source.model.to(self.device)
            self._source = (tag, source)
        return self._source[1]

    def _measure_float(self, job: Job, task: Task) -> Row:
        """Return the float model's result, which all rows of a model share."""
        key = job.float_key
        known = self.results.read()["floats"].get(key)
        if known is None or (self.options.force and key not in self._floats):
            known = measure_float(task, f"{job.figure.model.name} float").as_json() | describe_run()
            self.results.put("floats", key, known)
        gap = describe_gap(job.figure, known["top1_percent"])
        if gap and key not in self._floats:
            say(f"warning: {gap}", sys.stderr)
        self._floats.add(key)
        return {name: known[name] for name in ("top1_percent", "top5_percent", "images")}


def measure_jobs(jobs: Sequence[Job], own: Sequence[Job], bench: Bench, force: bool) -> int:
    """Measure what the file lacks of the jobs `own` and return how many failed."""
    failed = 0
    for job in own:
        place = f"[{jobs.index(job) + 1}/{len(jobs)}] {job.key}"
        known = is_done(bench.results.read()["rows"].get(job.key))
        if known and not force:
            say(f"{place}: there already")
            continue
        say(place)
        row = bench.run(job)
        if is_done(row) or not known:  # a failure does not replace a result
            bench.results.put("rows", job.key, row)
        failed += not is_done(row)
        found = row.get("error") or f"top-1 {row['top1_percent']:.2f} %, float {row['float']['top1_percent']:.2f} %"
        say(f"{place}: {found} ({row['seconds']:.0f} s)")
    return failed


def find_checkpoint(folder: Path, tag: str) -> Path:
    """Return the file of weights for `tag` in `folder`; raise `InputError` where there is none."""
    files = [folder / f"{tag}{suffix}" for suffix in (".safetensors", ".pth")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(f"no weights for {tag}: {str(folder)!r} holds neither {files[0].name} nor {files[1].name}")
    return found


def say(line: str, stream: TextIO | None = None) -> None:
    """Print one line at once, so that it is not torn apart by those of other processes."""
    print(f"{line}\n", end="", file=stream, flush=True)
