"""What ``bench.gpu`` measures: each model at each batch size, converted models and float interleaved."""

from __future__ import annotations

import copy
import functools
import gc
import re
import time
from typing import Any

import timm
import torch
from torch import fx, nn

import fxquant
from bench.harness.results import Row, RowsFile, describe_run
from bench.harness.timing import Competitor, measure, summarize
from fxquant.kernels import use_backend

MODELS = {
    "ViT-B": "vit_base_patch16_224",
    "ViT-L": "vit_large_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
}
# In the order they are measured: the target is set for the first four.
CELLS = (
    *(("ViT-B", 64), ("ViT-L", 64), ("ViT-B", 256), ("ViT-L", 256)),
    *(("ViT-B", 1), ("DeiT-S", 64), ("Swin-T", 64), ("ViT-B", 8), ("ViT-L", 8), ("ViT-L", 1)),
    *(("DeiT-S", 256), ("Swin-T", 256), ("DeiT-S", 8), ("Swin-T", 8), ("DeiT-S", 1), ("Swin-T", 1)),
)
BASELINE = "bf16 max-autotune"
_ORDER = [(MODELS[name], batch) for name, batch in sorted(CELLS)]


def build_float(name: str, batch: int) -> Competitor:
    """Return a call of the bfloat16 model, compiled with everything torch tries for speed."""
    model = _model(name).to("cuda")
    images = _images(batch)
    compiled: Any = torch.compile(model, mode="max-autotune")
    return functools.partial(_run, compiled, images, "auto")


def build_int8(name: str, batch: int, backend: str) -> tuple[Competitor, dict[str, str]]:
    """Return a call of the converted model, and why which of its layers stay in float; backend: see `fxquant.compile`."""
    gm = _converted(name).to("cuda")
    images = _images(batch)
    compiled = fxquant.compile(gm, backend, images)
    reasons = {r.name: r.reason for r in fxquant.report(compiled) if r.requested and r.reason}
    return functools.partial(_run, compiled, images, backend), reasons


def _run(model: nn.Module, images: torch.Tensor, backend: str) -> Any:
    with torch.no_grad(), use_backend(backend):
        return model(images)


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(MODELS[name]).eval().to(torch.bfloat16)  # type: ignore[no-any-return]


@functools.cache
def _calibrated(name: str) -> fx.GraphModule:
    """Return the converted model on the CPU: random weights, calibrated on two random images."""
    model = _model(name)
    images = _images(2, "cpu")
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), images)
    return fxquant.convert(fxquant.calibrate(prepared, [images], progress=False))


def _converted(name: str) -> fx.GraphModule:
    return copy.deepcopy(_calibrated(name))


def _images(batch: int, device: str = "cuda") -> torch.Tensor:
    return torch.randn(batch, 3, 224, 224, device=device).to(torch.bfloat16)


def run_cell(name: str, batch: int, rounds: int, with_aten: bool) -> Row:
    """Measure one model at one batch size; nothing of it stays in memory."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    start = time.perf_counter()
    int8, reasons = build_int8(name, batch, "auto")
    competitors = {BASELINE: build_float(name, batch), "int8 triton": int8}
    if with_aten:
        competitors["int8 aten"], _ = build_int8(name, batch, "aten")
    timings = measure(competitors, rounds, f"{name} batch {batch}")
    return {
        "model": MODELS[name],
        "batch": batch,
        "rounds": rounds,
        "commit": describe_run()["commit"],
        "seconds": round(time.perf_counter() - start, 1),
        "float_layers": reasons,
        "results": summarize(timings, batch),
    }


def run_cells(cells: list[tuple[str, int]], rounds: int, end: float) -> list[tuple[str, int]]:
    """Measure until there is no time for another cell, and return those that are left."""
    longest = 0.0
    for index, (name, batch) in enumerate(cells):
        start = time.perf_counter()
        if index and start + longest > end:
            return cells[index:]
        # torch's own int8 product takes as long to compile as the rest: it is compared at one batch size.
        row = run_cell(name, batch, rounds, with_aten=batch == 64)
        longest = max(longest, time.perf_counter() - start)
        device_rows().add(row)
        _show(name, batch, row)
    return []


def _show(name: str, batch: int, row: Row) -> None:
    results = row["results"]
    times = ", ".join(f"{form} {result['median_ms']:.3f} ms" for form, result in results.items())
    gain = results["int8 triton"]["times_faster_than"][BASELINE]
    print(f"{name} batch {batch}: {times}; {gain:.2f}x, {len(row['float_layers'])} layers in float", flush=True)


def result_name() -> str:
    """Return the name of the file of this device, such as ``gpu_nvidia_h200``."""
    return "gpu_" + re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name().lower()).strip("_")


def device_rows() -> RowsFile:
    """Return the file of this device."""
    facts = {"baseline": BASELINE, "recipe": "minmax W8A8, two random images", "seed": 0}
    return RowsFile(result_name(), ("model", "batch"), facts, _place)


def cells_left(models: list[str], batches: list[int], again: bool) -> list[tuple[str, int]]:
    """Return the cells that this commit was not measured on, or `again` all of them."""
    commit = describe_run()["commit"]
    done = {(r["model"], r["batch"]) for r in device_rows().read() if r["commit"] == commit and not again}
    wanted = [(m, b) for m, b in CELLS if m in models and b in batches]
    return [(m, b) for m, b in wanted if (MODELS[m], b) not in done]


def _place(row: Row) -> int:
    cell = (row["model"], row["batch"])
    return _ORDER.index(cell) if cell in _ORDER else len(_ORDER)
