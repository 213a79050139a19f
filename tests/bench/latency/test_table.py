"""The tables of the latency benchmark show what there is, and mark what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from bench.latency.table import FORMAT, SHOWN, every_engine, summary
from fxquant.benchmark.run_engines import Outcome, Status
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.timing import Timing


def row(model: str, batch: int, **seconds: float) -> dict[str, Any]:
    outcomes = [Outcome(name.replace("_", "-"), Status.MEASURED, timing=Timing((s,))) for name, s in seconds.items()]
    results = {o.name: o.as_json(batch) for o in outcomes}
    return {"model": model, "batch": batch, "rounds": 1, "threads": 1, "load": 0.0, "results": results}


def written(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what a results file with this row holds."""
    return {"format": FORMAT, "date": "2026-01-01", "environment": describe_environment(), "rows": [measured]}


def cells_of(table: str, model: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| `{model}`"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_short_table_has_times_and_ratios() -> None:
    measured = row("vit", 1, bf16_compile=0.02, fxquant_bf16_compile=0.01, openvino_int8_bf16=0.03)
    measured["results"]["openvino-int8-bf16"]["status"] = Status.DISAGREES.value
    text = summary(written(measured))
    assert cells_of(text, "vit") == ["`vit`", "1", "20", "30*", "10 (2.00x, 3.00x)"]
    assert cells_of(summary(written(row("vit", 1, pt2e=0.03))), "vit")[2:] == ["-", "-", "- (-, -)"]


def test_the_long_table_has_every_engine() -> None:
    measured = row("vit", 1, bf16_compile=0.02, fxquant_bf16_compile=0.01, pt2e=0.03)
    measured["results"]["pt2e"]["status"] = Status.DISAGREES.value
    cells = cells_of(every_engine(written(measured)), "vit")
    shown = dict(zip(("model", "batch", *SHOWN), cells, strict=False))
    assert (shown["bf16-compile"], shown["pt2e"], shown["fxquant-bf16-compile"]) == ("20", "30*", "10")
    assert shown["openvino-int8-bf16"] == "-"
    assert cells[-4:] == ["-", "**2.00x**", "**3.00x**", "-"]


def test_there_is_no_table_of_other_rows() -> None:
    with pytest.raises(SystemExit, match="no rows of this table yet"):
        summary({"rows": []})
