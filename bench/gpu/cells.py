"""What ``bench.gpu`` measures: each model at each batch size, converted models and float interleaved."""

from __future__ import annotations

import copy
import functools
import gc
import re
import time
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import fx, nn

import fxquant
from bench.gpu.rivals import RIVALS, Rival
from bench.harness.results import Row, RowsFile, describe_run
from bench.harness.timing import Competitor, measure, summarize
from fxquant.kernels import float8, use_backend

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
BASELINE, INT8 = "bf16 max-autotune", "int8 triton"
# fxquant's own: the codes of its recipe, the backend, and whether each batch size is measured. Others take as long to compile.
OWN: dict[str, tuple[str, str, bool]] = {
    INT8: ("int", "auto", True),
    "int8 aten": ("int", "aten", False),
    "float8": ("e4m3", "auto", True),
}
FORMS = (*OWN, *(rival.name for rival in RIVALS))
FULL_BATCH = 64  # at which all forms are measured
_ORDER = [(MODELS[name], batch) for name, batch in sorted(CELLS)]


def build_float(name: str, batch: int) -> Competitor:
    """Return a call of the bfloat16 model, compiled with everything torch tries for speed."""
    model = _model(name).to("cuda")
    images = _images(batch)
    compiled: Any = torch.compile(model, mode="max-autotune")
    return functools.partial(_run, compiled, images, "auto")


def build_own(name: str, batch: int, form: str) -> tuple[Competitor, dict[str, str]]:
    """Return a call of the converted model, and why which of its layers stay in float; form: one of `OWN`."""
    codes, backend, _ = OWN[form]
    gm = copy.deepcopy(_calibrated(name, codes)).to("cuda")
    images = _images(batch)
    compiled = fxquant.compile(gm, backend, images)
    reasons = {r.name: r.reason for r in fxquant.report(compiled) if r.requested and r.reason}
    return functools.partial(_run, compiled, images, backend), reasons


def build_rival(rival: Rival, name: str, batch: int) -> Competitor:
    """Return a call of the model on another engine."""
    images = _images(batch)
    with torch.no_grad():
        run: Any = rival.build(_model(name).to("cuda"), images)
    return functools.partial(_run, run, images, "auto")


def obstacle(form: str) -> str | None:
    """Return why a form cannot run here, None where it can."""
    rival = next((rival for rival in RIVALS if rival.name == form), None)
    if rival is not None:
        return rival.obstacle()
    return float8.obstacle(0) if OWN[form][0] == "e4m3" else None


def _run(model: nn.Module, images: torch.Tensor, backend: str) -> Any:
    with torch.no_grad(), use_backend(backend):
        return model(images)


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(MODELS[name]).eval().to(torch.bfloat16)  # type: ignore[no-any-return]


@functools.cache
def _calibrated(name: str, codes: str) -> fx.GraphModule:
    """Return the converted model on the CPU: random weights, calibrated on two random images."""
    model = _model(name)
    images = _images(2, "cpu")
    prepared = fxquant.prepare(model, fxquant.recipe("minmax", codes=codes), images)
    return fxquant.convert(fxquant.calibrate(prepared, [images], progress=False))


def _images(batch: int, device: str = "cuda") -> torch.Tensor:
    return torch.randn(batch, 3, 224, 224, device=device).to(torch.bfloat16)


def run_cell(name: str, batch: int, rounds: int, forms: Sequence[str]) -> Row:
    """Measure one model at one batch size; nothing of it stays in memory. What cannot run is noted with the reason."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    start = time.perf_counter()
    competitors = {BASELINE: build_float(name, batch)}
    reasons: dict[str, str] = {}
    refused: dict[str, str] = {}
    for form in forms:
        reason = obstacle(form)
        if reason is None:
            try:
                competitors[form], kept = _warmed(form, name, batch)
                reasons |= kept if form == INT8 else {}
            except Exception as error:  # of an engine that takes this model, or this batch size, no further
                if form in OWN:
                    raise
                reason = f"{type(error).__name__}: {error}"[:300]
        if reason is not None:
            refused[form] = reason
    timings = measure(competitors, rounds, f"{name} batch {batch}")
    return {
        "model": MODELS[name],
        "batch": batch,
        "rounds": rounds,
        "commit": describe_run()["commit"],
        "seconds": round(time.perf_counter() - start, 1),
        "float_layers": reasons,
        "refused": refused,
        "results": summarize(timings, batch),
    }


def _warmed(form: str, name: str, batch: int) -> tuple[Competitor, dict[str, str]]:
    """Return what `build_own` or `build_rival` does, after a first call, which compiles what compiles."""
    if form in OWN:
        return build_own(name, batch, form)
    rival = next(rival for rival in RIVALS if rival.name == form)
    competitor = build_rival(rival, name, batch)
    competitor()
    return competitor, {}


def forms_at(batch: int, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the forms that are measured at a batch size: those that were asked for, else all, or those that are quick."""
    if asked is not None:
        return tuple(form for form in FORMS if form in asked)
    return FORMS if batch == FULL_BATCH else tuple(form for form, (_, _, always) in OWN.items() if always)


def run_cells(
    cells: list[tuple[str, int]], rounds: int, end: float, asked: Sequence[str] | None = None
) -> list[tuple[str, int]]:
    """Measure until there is no time for another cell, and return those that are left; asked: see `forms_at`."""
    longest = 0.0
    for index, (name, batch) in enumerate(cells):
        start = time.perf_counter()
        if index and start + longest > end:
            return cells[index:]
        row = run_cell(name, batch, rounds, forms_at(batch, asked))
        longest = max(longest, time.perf_counter() - start)
        device_rows().add(row)
        _show(name, batch, row)
    return []


def _show(name: str, batch: int, row: Row) -> None:
    results = row["results"]
    times = ", ".join(f"{form} {result['median_ms']:.3f} ms" for form, result in results.items())
    gain = results[INT8]["times_faster_than"][BASELINE] if INT8 in results else None
    shown = "" if gain is None else f"; {gain:.2f}x, {len(row['float_layers'])} layers in float"
    print(f"{name} batch {batch}: {times}{shown}", flush=True)
    for form, reason in row["refused"].items():
        print(f"  not measured: {form}: {reason}", flush=True)


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
