"""The latency benchmark: cells merge, and the table shows what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.harness import results as harness
from bench.latency import __main__ as latency
from bench.latency import table as latency_table
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors.float_torch import BF16, FP32
from fxquant.benchmark.run_engines import Outcome, Status
from fxquant.measurement.timing import Timing


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (harness, latency):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def row(model: str, batch: int, **seconds: float) -> dict[str, Any]:
    outcomes = [Outcome(name.replace("_", "-"), Status.MEASURED, timing=Timing((s,))) for name, s in seconds.items()]
    results = {o.name: o.as_json(batch) for o in outcomes}
    return {"model": model, "batch": batch, "rounds": 1, "threads": 1, "load": 0.0, "results": results}


def test_cells_merge_in_the_order_of_the_table(folder: Path) -> None:
    (folder / "latency.json").write_text(json.dumps({"rows": [{"model": "of another format"}]}))
    latency._merge(row("other", 1, fp32=1.0))
    latency._merge(row("vit_base_patch16_224", 8, fp32=2.0))
    latency._merge(row("vit_base_patch16_224", 1, fp32=3.0))
    latency._merge(row("other", 1, fp32=4.0))
    data = json.loads((folder / "latency.json").read_text())
    cells = [(r["model"], r["batch"], r["results"]["fp32"]["p50_ms"]) for r in data["rows"]]
    assert cells == [("vit_base_patch16_224", 1, 3000), ("vit_base_patch16_224", 8, 2000), ("other", 1, 4000)]
    assert data["baseline"] == "bf16-compile"


def test_the_short_table_has_times_and_ratios() -> None:
    measured = row("vit", 1, bf16_compile=0.02, fxquant_bf16_compile=0.01, openvino_int8_bf16=0.03)
    measured["results"]["openvino-int8-bf16"]["status"] = Status.DISAGREES.value
    text = latency_table.summary(written(measured))
    assert cells_of(text, "vit") == ["`vit`", "1", "20", "30*", "10 (2.00x, 3.00x)"]
    assert cells_of(latency_table.summary(written(row("vit", 1, pt2e=0.03))), "vit")[2:] == ["-", "-", "- (-, -)"]


def test_the_long_table_has_every_engine() -> None:
    measured = row("vit", 1, bf16_compile=0.02, fxquant_bf16_compile=0.01, pt2e=0.03)
    measured["results"]["pt2e"]["status"] = Status.DISAGREES.value
    cells = cells_of(latency_table.every_engine(written(measured)), "vit")
    shown = dict(zip(("model", "batch", *latency_table.SHOWN), cells, strict=False))
    assert (shown["bf16-compile"], shown["pt2e"], shown["fxquant-bf16-compile"]) == ("20", "30*", "10")
    assert shown["openvino-int8-bf16"] == "-"
    assert cells[-4:] == ["-", "**2.00x**", "**3.00x**", "-"]


def test_there_is_no_table_of_other_rows() -> None:
    with pytest.raises(SystemExit, match="no rows of this table yet"):
        latency_table.summary({"rows": []})


def written(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the results file with this row."""
    latency._merge(measured)
    data: dict[str, Any] = json.loads((harness.RESULTS / "latency.json").read_text())
    return data


def cells_of(table: str, model: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| `{model}`"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("competitors", [[FP32, BF16]])
def test_a_cell_is_measured_as_the_command_does(competitors: list[Competitor]) -> None:
    cell = latency.run_cell("test_vit", 2, 1, competitors, img_size=32)
    assert list(cell["results"]) == ["fp32", "bf16"]
    assert cell["results"]["fp32"]["relative_error"] == 0
    assert cell["threads"] == torch.get_num_threads()
    assert cell["results"]["bf16"]["p50_ms"] > 0
