"""Tables of time and memory: what conversion, calibration, training and the int8 models take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import markdown, number

GPU = (
    *("bf16 max-autotune", "int8 triton", "int8 aten", "float8"),
    *("torchao int8", "torchao float8", "TensorRT int8", "TensorRT float8"),
)
GROWTH = ("bf16-compile", "fxquant-compile", "fxquant-bf16-compile")
Data = Mapping[str, Any]


def demo(data: Data) -> str:
    """Return what `fxquant demo --json` measured: a row for each form of the digits model."""
    times, batch = data["timings"], data["batch_size"]
    rows = []
    for row in data["results"]:
        cells = [number(row[key]) for key in ("top1_percent", "top5_percent", "agreement_percent")]
        cells += [number(row["size_bytes"], 1e-6), number(row["int8_coverage"], 100, 1)]
        timings = [times.get(kind, {}).get(row["name"], {}) for kind in ("eager", "compiled")]
        rows.append([row["name"], *cells, *(number(t.get("median_seconds"), 1e3 / batch, 3) for t in timings)])
    head = ("", "top-1 %", "top-5 %", "same class %", "MB", "int8 share %", "ms eager", "ms compiled")
    note = (
        f"Recipe `{data['recipe']}`, seed {data['seed']}, {data['results'][0]['images']} test images. Milliseconds are per "
        f"image in a batch of {batch}, medians of {data['rounds']} interleaved rounds on one thread of an "
        f"{data['environment']['processor']}. Same class: as float32. Int8 share: of the multiply-accumulates. "
        "6 and 4 bits run the same products as 8."
    )
    return f"{markdown(head, rows, text=1)}\n\n{' '.join(filter(None, (note, data.get('note'))))}"


def growth(data: Data) -> str:
    """Return milliseconds and megabytes along each axis."""
    rows = []
    for row in data["rows"]:
        found = [row["results"].get(name) or {} for name in GROWTH]
        cells = [number(each.get("p50_ms"), digits=0) for each in found]
        cells += [number(each.get("memory_bytes"), 1e-6, 0) for each in found]
        rows.append([row["axis"], str(row["value"]), *cells])
    head = ("axis", "value", *(f"{name}, {unit}" for unit in ("ms", "MB") for name in GROWTH))
    (model,) = {row["model"] for row in data["rows"]}
    rounds = " or ".join(map(str, sorted({row["rounds"] for row in data["rows"]})))
    note = f"`{model}`, medians of {rounds} rounds. MB: by which a process grew that built and ran it."
    return f"{markdown(head, rows, text=2)}\n\n{note} {_machine(data)}"


def startup(data: Data) -> str:
    """Return the seconds that each verb takes, and the memory of `fxquant.convert`."""
    rows = []
    for row in data["rows"]:
        seconds = [number(row["stages"][verb]["seconds"], digits=1) for verb in ("trace", "prepare", "convert")]
        sizes = [number(row[key], 1e-6, 0) for key in ("float_bytes", "int8_bytes")]
        ratio = number(row["convert_peak_over_float"])
        rows.append(
            [f"`{row['model']}`", *seconds, number(row["seconds_without_calibration"], digits=1), *sizes, ratio]
        )
    head = (
        "model",
        "trace, s",
        "prepare, s",
        "convert, s",
        "sum, s",
        "float MB",
        "int8 MB",
        "peak of convert / float MB",
    )
    return f"{markdown(head, rows, text=1)}\n\nRecipe {data['recipe']}. {_machine(data)} It also did other things."


def resident(data: Data) -> str:
    """Return the memory of each stage of a compiled model, in MB and as a multiple of its file."""
    rows = []
    for row in data["rows"]:
        cells = [
            "" if peak is None else f"{number(peak, 1e-6, 0)} ({peak / row['file_bytes']:.2f}x)"
            for peak in row["peak_bytes"].values()
        ]
        before = number(row["before_bytes"], 1e-6, 0)
        rows.append([f"`{row['model']}`", f"`{row['form']}`", number(row["file_bytes"], 1e-6, 0), *cells, before])
    head = ("model", "form", "file MB", "compile, MB", "first call, MB", "later calls, MB", "process before, MB")
    note = (
        f"Peaks above the process before, and in brackets as multiples of the file. Recipe {data['recipe']}, random weights, "
        "the rest in bfloat16, one image."
    )
    return f"{markdown(head, rows, text=2)}\n\n{note} {_machine(data)}"


def gemm_limit(data: Data) -> str:
    """Return how near a model comes to the time of its products alone."""
    rows = [
        [
            f"`{row['model']}`",
            str(row["batch"]),
            number(row["limit_ms"], digits=0),
            number(row["model_ms"], digits=0),
            number(row["share_of_limit"], 100, 0),
        ]
        for row in data["rows"]
    ]
    head = ("model", "batch", "products alone, ms", "whole model, ms", "share of the rate %")
    return f"{markdown(head, rows, text=1)}\n\nProducts alone: at the best rate of `torch._int_mm`. {_machine(data)}"


def calibration(data: Data) -> str:
    """Return the time and memory of a calibration."""
    rows = []
    for row in data["rows"]:
        cells = [row["setting"], f"`{row['recipe']}`", row["form"], str(row["images"]), str(row["threads"])]
        rows.append([*cells, number(row["seconds"], digits=1), *(str(row[k]) for k in ("peak_before_mib", "peak_mib"))])
    head = ("model", "recipe", "form", "images", "threads", "s", "MiB before", "MiB at the peak")
    return f"{markdown(head, rows, text=3)}\n\n{data['bits']}. {_machine(data, threads=False)}"


def noise(data: Data) -> str:
    """Return what a noisy bias costs at run time."""
    rows = []
    for row in data["rows"]:
        without, noisy = (row["results"][name] for name in ("without noise", "with noise"))
        times = [number(each["median_ms"], digits=0) for each in (without, noisy)]
        ratio = number(without["times_faster_than"]["with noise"])
        rows.append([f"`{row['model']}`", str(row["batch"]), "yes" if row["compiled"] else "no", *times, ratio])
    head = ("model", "batch", "compiled", "without noise, ms", "with noise, ms", "times slower")
    return f"{markdown(head, rows, text=3)}\n\nRecipe {data['recipe']}. {_machine(data)}"


def synthesis(data: Data) -> str:
    """Return the time of a step of synthesis, beside the published formulation, and of a whole run."""
    step, whole = data["rows"]
    ours, theirs = (step["results"][name] for name in ("fxquant", "published"))
    figures = (ours["median_ms"], theirs["median_ms"], 1e3 * whole["seconds_per_step"])
    ours_s, theirs_s, whole_s = (number(value, 1e-3) for value in figures)
    rows = [
        [
            str(step["batch"]),
            str(step["threads"]),
            ours_s,
            theirs_s,
            number(ours["times_faster_than"]["published"], digits=1),
            "",
        ],
        [str(whole["batch"]), str(whole["threads"]), whole_s, "", "", number(whole["projected_hours"], digits=1)],
    ]
    head = ("images", "threads", "fxquant, s a step", "published, s a step", "times faster", "hours in all")
    note = f"`{step['model']}` at 224 pixels. The hours are projected from {whole['steps_timed']} of {whole['steps']} steps."
    return f"{markdown(head, rows)}\n\n{note} {_machine(data, threads=False)}"


def train_step(data: Data) -> str:
    """Return the time of a step of training, beside the published formulation and beside float training."""
    rows = []
    for row in (row for row in data["rows"] if "results" in row):
        results = row["results"]
        times = [number(results[name]["median_ms"], digits=0) for name in ("fxquant", "published", "float")]
        ratios = (
            results["fxquant"]["times_faster_than"]["published"],
            results["float"]["times_faster_than"]["fxquant"],
        )
        rows.append([f"`{row['model']}`", str(row["batch"]), *times, *(number(ratio, digits=1) for ratio in ratios)])
    head = ("model", "batch", "fxquant, ms", "published, ms", "float, ms", "faster than published", "slower than float")
    note = f"{data['bits']} with the regulariser; loss and gradients are equal to float rounding."
    return f"{markdown(head, rows, text=1)}\n\n{note} {_machine(data)}"


def scaling(data: Data) -> str:
    """Return what several processes gain."""
    rows = []
    for row in data["rows"]:
        times = [
            number(row[f"{what}_{unit}"], digits=1)
            for what in ("calibration", "evaluation")
            for unit in ("s", "speedup")
        ]
        calibrated, evaluated = row["images"]
        cells = [f"`{row['recipe']}`", f"{calibrated} and {evaluated}", str(row["processes"])]
        rows.append([*cells, *times, "yes" if row["equal"] else "no"])
    head = (
        "recipe",
        "images",
        "processes",
        "calibrate, s",
        "times faster",
        "evaluate, s",
        "times faster",
        "equal results",
    )
    (model,) = {row["model"] for row in data["rows"]}
    note = f"`{model}`, {data['bits']}, one thread each. Images: to calibrate, and to evaluate."
    return f"{markdown(head, rows, text=2)}\n\n{note} {_machine(data, threads=False)}"


def gpu(data: Data) -> str:
    """Return milliseconds per batch on a GPU, and how many times faster than bfloat16 int8 is."""
    rows = []
    forms = [name for name in GPU if any(name in row["results"] for row in data["rows"])]
    for row in data["rows"]:
        found = [row["results"].get(name) or {} for name in forms]
        gain = row["results"].get(GPU[1], {}).get("times_faster_than", {}).get(data["baseline"])
        cells = [number(each.get("median_ms")) for each in found]
        rows.append(
            [f"`{row['model']}`", str(row["batch"]), *cells, f"**{number(gain)}x**", str(len(row["float_layers"]))]
        )
    head = ("model", "batch", *forms, "faster", "layers back in bfloat16")
    rounds = " or ".join(map(str, sorted({row["rounds"] for row in data["rows"]})))
    versions = data["environment"]
    note = (
        f"Milliseconds per batch, medians of {rounds} interleaved rounds: {data['recipe']}. `{GPU[0]}` is torch.compile with "
        f'`mode="max-autotune"`. Faster: `{GPU[1]}` than that. {versions["gpu"]}, torch {versions["torch"]}, Triton '
        f"{versions['engines']['triton']}, {data['date'][:10]}."
    )
    return f"{markdown(head, rows, text=1)}\n\n{note}"


def _machine(data: Data, threads: bool = True) -> str:
    environment = data["environment"]
    count = environment["threads"]
    used = f", {count} thread{'s' * (count > 1)}" if threads else f" with {environment['cores']} cores"
    return f"{environment['processor']}{used}, torch {environment['torch']}, {data['date'][:10]}."
