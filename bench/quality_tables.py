"""Tables of accuracy: what recipes, calibration images and training give on the stand-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from bench.markdown import markdown

SOURCES = ("real", "synthetic", "noise")
METHODS = {
    "ptq-omse": "PTQ, `omse` with quantised attention",
    "ptq-ptq4vit": "PTQ, `ptq4vit`",
    "lsq": "plain LSQ: hard labels, LSQ's gradient scale",
    "distilled": "VVTQ without the regulariser",
    "regularised": "VVTQ without distillation",
    "vvtq": "VVTQ",
}
Data = Mapping[str, Any]


def noise_gain(data: Data) -> str:
    """Return by how much noise lowers the squared error of layers, by what their inputs come from."""
    rows = []
    kinds = {"norm": "a norm", "activation": "attention", "gelu": "GELU"}
    for model in dict.fromkeys(row["model"] for row in data["rows"]):
        for outliers in ("without", "with"):
            mine = [row for row in data["rows"] if (row["model"], row["outliers"]) == (model, outliers)]
            widths = list(dict.fromkeys(row["bits"] for row in mine))
            cells = [[r["others"] for r in mine if (r["input"], r["bits"]) == (k, w)] for k in kinds for w in widths]
            rows.append([model, outliers, *(str(round(100 - 100 * fmean(each))) for each in cells)])
    head = ("stand-in", "outliers", *(f"{kind}, {width}" for kind in kinds.values() for width in widths))
    note = (
        f"Percent, means over the layers whose input comes from a norm, attention or GELU. Fitted on {data['calib']} "
        f"images, measured on {data['images']} others. Recipe `{data['recipe']}`; below zero: the error grew."
    )
    return f"{markdown(head, rows, text=2)}\n\n{note}"


def datafree(data: Data) -> str:
    """Return a line per recipe and bits: the mean over models and seeds for each kind of calibration images."""
    rows, settings, lines = data["rows"], data["settings"], []
    keys = {key: key.split() for key in rows}  # model, bits, recipe, source, "seed", seed
    for bits in dict.fromkeys(key[1] for key in keys.values()):
        for recipe in dict.fromkeys(key[2] for key in keys.values()):
            found = [
                [rows[name] for name, key in keys.items() if key[1:4] == [bits, recipe, source]] for source in SOURCES
            ]
            lines.append([f"`{recipe}`", bits, *map(_accuracy, found)])
    floats = ", ".join(f"{name} {value:.2f}" for name, value in data["float_top1"].items())
    note = (
        f"Top-1 in percent, and the SQNR of the logits in dB. Float top-1: {floats}. {settings['test_images']} test images, "
        f"{settings['images']} images to calibrate, synthesis of 2 rounds of {settings['iterations']} iterations, outlier "
        f"channels: {settings['outliers']}. Means over the models and seeds measured; in brackets, how many."
    )
    return f"{markdown(('recipe', 'bits', *SOURCES), lines, text=2)}\n\n{note}"


def qat(data: Data) -> str:
    """Return a line per stand-in and method: the mean and standard deviation over seeds at each width."""
    rows, settings, lines = data["rows"], data["settings"], []
    bits = sorted({key.split()[1] for key in rows}, reverse=True)
    for name, value in data["float_top1"].items():
        lines.append([name, "float", *(f"{value:.2f}" for _ in bits)])
        for method, text in METHODS.items():
            found = [[r["top1"] for k, r in rows.items() if k.split()[:3] == [name, b, method]] for b in bits]
            if any(found):
                lines.append([name, text, *map(_spread, found)])
    note = (
        f"Top-1 in percent of int8 models on {settings['test_images']} test images: mean and standard deviation over seeds, in "
        f"brackets how many. Each training sees {settings['images']} images in {settings['epochs']} epochs with batches of "
        f"{settings['batch_size']}, AdamW, learning rate {settings['lr']}, from the same float weights."
    )
    return f"{markdown(('stand-in', 'method', *bits), lines, text=2)}\n\n{note}"


def _accuracy(rows: Sequence[Data]) -> str:
    if not rows:
        return "-"
    return f"{fmean(r['top1'] for r in rows):.2f} %, {fmean(r['sqnr_db'] for r in rows):.1f} dB ({len(rows)})"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {pstdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread} ({len(values)})" if values else "-"


def softmax_codes(data: Data) -> str:
    """Return what each kind of codes for probabilities gives, and its error beside that of the last one."""
    last = data["rows"][-1]["error"]
    rows = [
        [row["form"], f"{row['error']:.3f}", f"{row['error'] / last:.1f}", f"{row['top1']:.1f}"] for row in data["rows"]
    ]
    head = ("probabilities", "error of the logits", "times that of the last line", "top-1 %")
    note = (
        f"The DINOv2 of [accuracy.md](../accuracy.md#a-real-pretrained-model), {data['bits']}, glyphs at {data['px']} px: "
        f"{data['images']} to read, {data['calib']} to calibrate; float top-1 {data['float_top1']:.1f} %. "
        f"`python -m bench.softmax_codes`, {data['date'][:10]}."
    )
    return f"{markdown(head, rows, text=1)}\n\n{note}"


def float8(data: Data) -> str:
    """Return what recipes give on integers and on float8 codes."""
    rows = []
    for row in data["rows"]:
        cells = ("int8" if row["codes"] == "int" else row["codes"], "quantised" if row["patch_embed"] else "float")
        rows.append([f"`{row['recipe']}`", *cells, f"{row['error']:.3f}", f"{row['top1']:.1f}"])
    head = ("recipe", "codes", "patch embedding", "error of the logits", "top-1 %")
    note = (
        f"The DINOv2 of [accuracy.md](accuracy.md#a-real-pretrained-model), 8 bits, glyphs at {data['px']} px: "
        f"{data['images']} to read, {data['calib']} to calibrate; float top-1 {data['rows'][0]['float_top1']:.1f} %. "
        f"`python -m bench.float8`, on a CPU, {data['date'][:10]}."
    )
    return f"{markdown(head, rows, text=3)}\n\n{note}"


def sensitivity(data: Data) -> str:
    """Return what each kind of operand costs alone, and what keeping it float saves."""
    rows = [[f"`{each['part']}`", f"{each['alone']:.4f}", f"{each['saves']:.4f}"] for each in data["parts"]]
    rows.append(["all", f"{data['all_parts']:.4f}", ""])
    note = (
        f"`{data['recipe'].partition(' ')[0]}` {data['recipe'].partition(' ')[2]} on the DINOv2 of "
        f"[accuracy.md](accuracy.md#a-real-pretrained-model) at {data['px']} pixels, {data['calib']} calibration images. "
        f"`python -m bench.mixed`, {data['date'][:10]}."
    )
    return f"{markdown(('part', 'alone', 'saves'), rows, text=1)}\n\n{note}"


def mixed(data: Data) -> str:
    """Return the configs by their budgets: bits, errors, accuracy and the share of int8."""
    rows = []
    for row in data["rows"]:
        name = f"`{row['budget']}`" if row["budget"] else f"`{data['recipe'].replace(' ', '` ')}"
        errors = [f"{row[key]:.3f}" for key in ("calibration_error", "error")]
        rows.append([name, f"{row['mean_bits']:.2f}", *errors, f"{row['top1']:.1f}", f"{100 * row['int8']:.1f} %"])
    head = ("config", "mean bits of weights", "error, calibration", "error, held out", "top-1", "on int8")
    note = (
        f"The same model, chosen on its {data['calib']} calibration images and measured on {data['images']} held-out ones; "
        f"float top-1 {data['float_top1']:.1f}. `python -m bench.mixed`, {data['date'][:10]}."
    )
    return f"{markdown(head, rows, text=1)}\n\n{note}"
