"""
docs/accuracy.md, from ``bench/results/accuracy.json``: ``python -m bench.accuracy.table``.

Here is also which recipes and variants of them the tables compare; ``bench.accuracy`` measures them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.accuracy.comparability import comparability
from bench.harness.results import ROOT, Row, results_file
from bench.markdown import markdown
from bench.real.table import chapter
from bench.tables import fill

FILE = results_file("accuracy")
DOCS = ROOT / "docs" / "accuracy.md"
RECIPES = ("minmax", "ema", "percentile", "omse", "base_ptq", "ptq4vit", "vanilla", "noisyquant", "noisyquant_ptq4vit")
OUTLIERS = ("without", "with")
BITS = ("W8A8", "W6A6", "W4A4", "W4A8")
ABLATION_BITS = ("W8A8", "W6A6")


@dataclass(frozen=True)
class Variant:
    """A recipe with options, under the name that a table gives it."""

    label: str
    recipe: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the call that makes it."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f'`recipe("{self.recipe}"{options})`'.replace("'", '"')


_HESSIAN, _COSINE = {"metric": "hessian"}, {"metric": "cosine"}
_PAPER = {"noise": "uniform"}
ABLATIONS = {
    "ptq4vit": (
        Variant("none, one round", "base_ptq", _COSINE),
        Variant("none", "ptq4vit", _COSINE | {"twin_softmax": False, "twin_gelu": False}),
        Variant("Hessian", "ptq4vit", _HESSIAN | {"twin_softmax": False, "twin_gelu": False}),
        Variant("Hessian + softmax twin", "ptq4vit", _HESSIAN | {"twin_gelu": False}),
        Variant("Hessian + GELU twin", "ptq4vit", _HESSIAN | {"twin_softmax": False}),
        Variant("both twins", "ptq4vit", _COSINE),
        Variant("all", "ptq4vit", _HESSIAN),
    ),
    "gradient": (
        Variant("Hessian, published gradient", "ptq4vit", _HESSIAN | {"gradient": "prediction"}),
        Variant("Hessian, sampled label", "ptq4vit", _HESSIAN | {"gradient": "sampled_label"}),
        Variant("Hessian, sampled output", "ptq4vit", _HESSIAN),
        Variant("Fisher, sampled label", "ptq4vit", {"gradient": "sampled_label"}),
        Variant("Fisher, sampled output", "ptq4vit"),
        Variant("none: squared error", "ptq4vit", {"metric": "l2"}),
        Variant("none: cosine", "ptq4vit", _COSINE),
    ),
    "noisyquant": (
        Variant("clip", "noisyquant", {"mean": False, "range": False}),
        Variant("clip + mean", "noisyquant", _PAPER | {"range": False}),
        Variant("clip + range", "noisyquant", _PAPER | {"mean": False}),
        Variant("clip + mean + range", "noisyquant", _PAPER),
        Variant("clip + mean + range, fitted noise", "noisyquant"),
    ),
    "published": (
        Variant("base_ptq, published", "base_ptq", {"published": True}),
        Variant("base_ptq, default", "base_ptq"),
        Variant("ptq4vit, published", "ptq4vit", {"published": True}),
        Variant("ptq4vit, default", "ptq4vit"),
        Variant("noisyquant, published", "noisyquant", {"published": True}),
        Variant(
            "noisyquant, published, all layers", "noisyquant", {"published": True, "patch_embed": True, "head": True}
        ),
        Variant("noisyquant, default", "noisyquant"),
    ),
}
_ABLATION_TEXTS = {
    "ptq4vit": """\
### PTQ4ViT: Hessian and twins

As in the paper's table, all with the same rounds of search but for the first line. Without the Hessian, products are compared
by cosine. The paper's Hessian weighs every output by its own squared gradient; the default of the recipes in the tables above
is its factored form, `fisher`, see the next table.""",
    "gradient": """\
### PTQ4ViT: which gradient

The published code takes the gradient of a divergence between the prediction and itself, which is zero but for rounding. Here
it can be that of the negative log-likelihood of an output drawn from the model's own prediction, which gives the Fisher
information: of a class, drawn from the softmax, or of logits, drawn from a Gaussian around the model's. The first hardly counts
the images that the model is sure of, here most of them.""",
    "noisyquant": """\
### NoisyQuant: clip, mean, range

As in the ablation of the published code, with noise drawn evenly from [-1, 1] as in the paper. `fitted`, the default, draws no
noise but gives each channel its own best shift.""",
    "published": """\
### As published, and by default

`published=True` has the constants, candidates and omissions of the authors' code. For noisyquant these leave the patch
embedding and the head in float; the row "all layers" quantises them too, as the default does.""",
}
_HEAD = """\
## Stand-ins

**The models are stand-ins**: small transformers ({models}), trained from scratch on 32x32 images of digits and
letters that are drawn by a program. It is not ImageNet, and these are not the accuracies of pretrained ViTs. What can be read
from the tables is how the recipes compare with each other under the same conditions, and what a variant changes.

Small models lack the outlier channels that make large pretrained ones hard to quantise. The tables "with outliers" are of the
same models after an exact transform has given them such channels (`bench/standins/outliers.py`): the function is the same, but
{norm} channels of each LayerNorm output, {value} of each attention output and {hidden} pairs of each hidden layer are {low:.0f}
to {high:.0f} times wider. The transform decides how hard these models are, and so the distance between the recipes.

- **Data**: {images:,} test images{part}; {calib} calibration images that are not among them, in batches of {calib_batch}.
- **Seeds**: {seeds}. A seed draws the calibration images and is the seed of the recipe; weights and outliers stay the same.
  A figure is the mean over the seeds, with the smallest and largest in brackets.
- **Recipes** have their default options; where an ablation changes some, its table says which. All quantise the patch
  embedding and the head as well, unless said otherwise, but attention products only base_ptq, ptq4vit and
  noisyquant_ptq4vit do, so these quantise more.
- **top-1** is in percent: one image is {one:.3f} points, and the standard error of a float accuracy at most {error:.2f}.
  **SQNR** is of all logits on the test images, in dB: signal of the float logits over the squared difference. Both are of
  the simulated model, `fxquant.convert(prepared, "fake")`.
- Measured {dates} on {processor}, {threads}, torch {torch}, timm {timm}, commit {commits}.

Written by `python -m bench.accuracy.table` from `bench/results/accuracy.json`, which `python -m bench.accuracy --ablations`
measures."""
_COST_TEXT = """\
## What calibration costs

Mean over all bits, seeds, with and without outliers; smallest and largest in brackets. **s**: processor seconds of
`fxquant.calibrate` alone. **MiB**: by how much it raised the peak resident memory of a fresh process that held the
prepared model and the images. That includes what the first run of a model costs such a process, as the row of minmax shows."""
_INT8_TEXT = """\
## int8 against the simulation

At seed 0 the model was also converted to int8 products and run on the same test images. Equal inputs of a product give equal
codes; a value on a rounding boundary may fall to the other side, and the layers that follow take that up. Differences are in
points of top-1."""


def render(data: Mapping[str, Any]) -> str:
    """Return the page for the content of the results file; the table of the real model is of its own file."""
    rows = [row for row in data["rows"].values() if "top1" in row]
    parts = ["# Accuracy of the recipes", chapter(), comparability(), _head(data, rows)]
    for name, baseline in data["baselines"].items():
        model, outliers = name.split(" ")
        mine = [row for row in rows if _model(row) == name]
        variants = [Variant(f"`{recipe}`", recipe) for recipe in RECIPES]
        table = _accuracy_table(mine, variants, BITS, described=False)
        if table:
            title = f"## {model}, {outliers} outliers\n\nFloat top-1 {baseline['top1']:.2f} %."
            parts.append(f"{title}\n\n{table}")
    parts += _ablations(data, rows)
    parts += [f"{_COST_TEXT}\n\n{_cost_table(rows)}", f"{_INT8_TEXT}\n\n{_int8_table(rows)}"]
    failed = [f"- {key}: {row['stopped']}" for key, row in data["rows"].items() if "top1" not in row]
    if failed:
        parts.append("\n".join(["## Failed", "", *failed]))
    return fill("\n\n".join(parts) + "\n", DOCS.relative_to(ROOT).as_posix())


def _head(data: Mapping[str, Any], rows: Sequence[Row]) -> str:
    environment, images = data["environment"], data["images"]
    sizes: dict[str, int] = {}  # without outliers where that was measured: they add hidden units
    for key, baseline in data["baselines"].items():
        name = key.split(" ")[0]
        sizes[name] = min(baseline["parameters"], sizes.get(name, baseline["parameters"]))
    whole = [b["top1"] for b in data["baselines"].values()]
    return _HEAD.format(
        models=", ".join(f"{name} of {size / 1e6:.2f} M parameters" for name, size in sizes.items()),
        images=images,
        part=", in equal parts of 62 classes" if images % 62 == 0 else "",
        calib=data["calib"],
        calib_batch=data["calib_batch"],
        seeds=", ".join(str(seed) for seed in sorted({row["seed"] for row in rows})),
        one=100 / images,
        error=max((p * (100 - p) / images) ** 0.5 for p in whole),
        **{name: data["injected"][name] for name in ("norm", "value", "hidden")},
        low=data["injected"]["factor"][0],
        high=data["injected"]["factor"][1],
        dates=_span(row["date"] for row in rows),
        processor=f"{environment['processor']} with {environment['cores']} cores",
        threads=" or ".join(f"{n} thread{'s' * (n != 1)}" for n in sorted({row["threads"] for row in rows})),
        torch=environment["torch"],
        timm=environment["timm"],
        commits=", ".join(sorted({f"`{row['commit']}`" for row in rows})),
    )


def _ablations(data: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    parts: list[str] = []
    for group, variants in ABLATIONS.items():
        wanted = {(v.recipe, _frozen(v.options)) for v in variants if v.options}
        measured = {_model(row) for row in rows if (row["recipe"], _frozen(row["options"])) in wanted}
        if measured:
            parts.append(_ABLATION_TEXTS[group])
        for name in (name for name in data["baselines"] if name in measured):
            mine = [row for row in rows if _model(row) == name]
            seeds = _common_seeds(mine, variants)
            table = _accuracy_table([r for r in mine if r["seed"] in seeds], variants, ABLATION_BITS, described=True)
            if table:
                title = f"{name} outliers, float top-1 {data['baselines'][name]['top1']:.2f} %"
                numbers = ", ".join(str(seed) for seed in sorted(seeds))
                parts.append(f"{title}, seed{'s' * (len(seeds) > 1)} {numbers}:\n\n{table}")
    return ["## Ablations", *parts] if parts else []


def _common_seeds(rows: Sequence[Row], variants: Iterable[Variant]) -> set[int]:
    """Return the seeds that every variant with any rows was measured with, so that all lines are of the same ones."""
    found = [{row["seed"] for row in rows if _is(row, variant)} for variant in variants]
    return set.intersection(*filter(None, found)) if any(found) else set()


def _accuracy_table(rows: Sequence[Row], variants: Iterable[Variant], bits: Iterable[str], described: bool) -> str:
    """Return a line for each variant that has rows, a pair of columns for each bit width that has; empty without rows."""
    found = {
        (variant.label, width): [r for r in rows if _is(r, variant) and r["bits"] == width]
        for variant in variants
        for width in bits
    }
    widths = [
        width for width in dict.fromkeys(w for _, w in found) if any(found[key] for key in found if key[1] == width)
    ]
    seeds = len({row["seed"] for row in rows})
    head = ["recipe", *(f"{width} {what}" for width in widths for what in ("top-1", "SQNR"))]
    lines = []
    for variant in variants:
        cells = [found[variant.label, width] for width in widths]
        if any(cells):
            figures = [_spread(c, name, f, seeds) for c in cells for name, f in (("top1", ".2f"), ("sqnr_db", ".1f"))]
            lines.append([variant.label, *figures, *([variant.describe()] if described else [])])
    return markdown([*head, *(["is"] if described else [])], lines, text=1) if lines else ""


def _cost_table(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    variants = [Variant(f"`{recipe}`", recipe) for recipe in RECIPES]
    variants += [v for v in ABLATIONS["published"] if v.options]
    lines = []
    for variant in variants:
        mine = [[r for r in rows if _is(r, variant) and r["model"] == model] for model in models]
        if any(mine):
            columns = (("cpu_seconds", ".1f"), ("memory_mib", ".0f"))
            lines.append([variant.label, *(_spread(found, name, f) for found in mine for name, f in columns)])
    return markdown(["recipe", *(f"{model} {unit}" for model in models for unit in ("s", "MiB"))], lines, text=1)


def _int8_table(rows: Sequence[Row]) -> str:
    pairs = [row for row in rows if "int8_top1" in row]
    lines = []
    for outliers in OUTLIERS:
        for width in BITS:
            mine = [row for row in pairs if (row["outliers"], row["bits"]) == (outliers, width)]
            if mine:
                gaps = [row["int8_top1"] - row["top1"] for row in mine]
                same = [row["int8_agreement"] for row in mine]
                mean = sum(gaps) / len(gaps)
                figures = (
                    f"{mean:+.3f}",
                    f"{max(gaps, key=abs):+.2f}",
                    f"{sum(same) / len(same):.2f}",
                    f"{min(same):.2f}",
                )
                lines.append([f"{width}, {outliers} outliers", str(len(mine)), *figures])
    head = ["", "models", "int8 minus fake top-1, mean", "furthest", "same class %, mean", "least"]
    return markdown(head, lines, text=1)


def _model(row: Row) -> str:
    return f"{row['model']} {row['outliers']}"


def _is(row: Row, variant: Variant) -> bool:
    return bool(row["recipe"] == variant.recipe and row["options"] == dict(variant.options))


def _frozen(options: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(options.items())


def _spread(rows: Sequence[Row], name: str, form: str, seeds: int | None = None) -> str:
    """Return the mean of a figure and, in brackets, its smallest and largest; fewer than `seeds` of them are counted."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return ""
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    mean = f"{sum(values) / len(values):{form}}"
    count = f" of {len(values)} seed{'s' * (len(values) > 1)}" if seeds is not None and len(values) < seeds else ""
    return f"{mean}{count}" if low == high else f"{mean}{count} ({low} to {high})"


def _span(dates: Iterable[str]) -> str:
    ordered = sorted(set(dates))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FILE)
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args(arguments)
    try:
        data = json.loads(options.results.read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"cannot read {options.results}: {error.strerror}; `python -m bench.accuracy` writes it")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(render(data), encoding="utf-8")


if __name__ == "__main__":
    main()
