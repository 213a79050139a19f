"""
The tables of README.md and docs, each from its file in ``bench/results``.

``python -m bench.tables`` writes every table anew, between the lines ``<!-- name:begin -->`` and ``<!-- name:end -->`` of its
page. A page is written whole or not at all. The benchmarks call it when they have measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.exported.table import models as exported_models
from bench.exported.table import recipes as exported_recipes
from bench.harness.results import RESULTS, ROOT
from bench.latency.table import engines, every_engine, other_isas, summary
from bench.markdown import put
from bench.quality_tables import datafree, float8, mixed, noise_gain, qat, sensitivity, softmax_codes
from bench.real.settings import UNTRAINED
from bench.real.table import expected, real, real_recipe
from bench.real.table import summary as accuracy
from bench.robustness.table import robustness
from bench.serving.table import serving
from bench.time_tables import (
    calibration,
    demo,
    gemm_limit,
    gpu,
    growth,
    noise,
    resident,
    scaling,
    startup,
    synthesis,
    train_step,
)
from fxquant.files import write_atomically

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One table. page: the file it stands in, below the root. results: its file, ``bench/results/<results>.json``."""

    name: str
    page: str
    results: str
    render: Callable[[Data], str]


TABLES = (
    Table("latency", "README.md", "latency", summary),
    Table("accuracy", "README.md", "real", accuracy),
    Table("expected", "docs/tutorial.md", "real", expected),
    Table("every-engine", "docs/benchmarks.md", "latency", every_engine),
    Table("engines", "docs/benchmarks.md", "latency", engines),
    Table("other-isas", "docs/benchmarks.md", "latency", other_isas),
    Table("serving", "docs/serving.md", "serving", serving),
    Table("resident", "docs/serving.md", "resident", resident),
    Table("demo", "docs/benchmarks.md", "demo", demo),
    Table("growth", "docs/benchmarks.md", "growth", growth),
    Table("startup", "docs/benchmarks.md", "startup", startup),
    Table("gemm-limit", "docs/benchmarks.md", "gemm_limit", gemm_limit),
    Table("gpu", "docs/benchmarks.md", "gpu_nvidia_h200", gpu),
    Table("calibration", "docs/benchmarks.md", "calibration", calibration),
    Table("real", "docs/accuracy.md", "real", real),
    *(Table(f"real-{name}", f"docs/recipes/{name}.md", "real", partial(real_recipe, name)) for name in UNTRAINED),
    Table("noise", "docs/recipes/noisyquant.md", "noise", noise),
    Table("noise-gain", "docs/recipes/noisyquant.md", "noise_gain", noise_gain),
    Table("softmax-codes", "docs/recipes/fqvit.md", "softmax_codes", softmax_codes),
    Table("float8", "docs/float8.md", "float8", float8),
    Table("sensitivity", "docs/sensitivity.md", "mixed", sensitivity),
    Table("mixed", "docs/sensitivity.md", "mixed", mixed),
    Table("synthesis", "docs/data-free.md", "synthesis", synthesis),
    Table("datafree", "docs/data-free.md", "datafree", datafree),
    Table("train-step", "docs/training.md", "train_step", train_step),
    Table("qat", "docs/training.md", "qat", qat),
    Table("scaling", "docs/distributed.md", "scaling", scaling),
    Table("exported-recipes", "docs/export.md", "exported", exported_recipes),
    Table("exported-models", "docs/export.md", "exported", exported_models),
    Table("robustness", "docs/robustness.md", "robustness", robustness),
)


def write_pages(root: Path = ROOT, results: Path = RESULTS) -> None:
    """
    Put every table into its page; pages that hold it already are left alone.

    Raises `SystemExit` where a results file is missing or of another format, and where a page has no place for a table.
    """
    for page in dict.fromkeys(table.page for table in TABLES):
        file = root / page
        old = file.read_text(encoding="utf-8")
        text = fill(old, page, results)
        if text != old:
            write_atomically(file, partial(_write, text))


def fill(text: str, page: str, results: Path = RESULTS) -> str:
    """Return the text of a page with its tables as their results files give them."""
    for table in TABLES:
        if table.page == page:
            text = put(text, table.name, rendered(table, results), page)
    return text


def rendered(table: Table, results: Path = RESULTS) -> str:
    """Return a table as its results file gives it."""
    file = results / f"{table.results}.json"
    if not file.exists():
        raise SystemExit(f"{file} is missing: measure it first")
    return table.render(json.loads(file.read_text(encoding="utf-8")))


def _write(text: str, name: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages()
