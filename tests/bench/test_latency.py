"""The latency benchmark: cells merge, and the table shows what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import harness
from bench.latency import __main__ as latency
from bench.latency import table as latency_table
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors.float_torch import BF16, FP32
from fxquant.benchmark.run_engines import Outcome, Status
from fxquant.measurement.timing import Timing


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (harness, latency, latency_table):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- latency:begin -->\nold\n<!-- latency:end -->\nafter\n")
    monkeypatch.setattr(latency_table, "README", readme)
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


def test_readme_gets_times_ratios_and_dashes(folder: Path) -> None:
    measured = row("vit", 1, bf16_compile=0.02, fxquant_bf16_compile=0.01, pt2e=0.03)
    measured["results"]["pt2e"]["status"] = Status.DISAGREES.value
    latency._merge(measured)
    latency_table.update_readme()
    text = (folder / "README.md").read_text()
    assert text.startswith("before\n<!-- latency:begin -->\n| model | batch | fp32-compile | bf16-compile | pt2e |")
    assert text.endswith("<!-- latency:end -->\nafter\n")
    cells = next(line for line in text.splitlines() if line.startswith("| `vit`")).strip("| ").split(" | ")
    shown = dict(zip(("model", "batch", *latency_table.SHOWN), cells, strict=False))
    assert (shown["bf16-compile"], shown["pt2e"], shown["fxquant-bf16-compile"]) == ("20", "30*", "10")
    assert shown["openvino-int8-bf16"] == "-"
    assert cells[-4:] == ["-", "**2.00x**", "**3.00x**", "-"]


def test_there_is_no_table_of_other_rows(folder: Path) -> None:
    with pytest.raises(SystemExit, match="no rows of this table yet"):
        latency_table.update_readme()
    (folder / "latency.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(SystemExit, match="no rows of this table yet"):
        latency_table.update_readme()


@pytest.mark.parametrize("competitors", [[FP32, BF16]])
def test_a_cell_is_measured_as_the_command_does(competitors: list[Competitor]) -> None:
    cell = latency.run_cell("test_vit", 2, 1, competitors, img_size=32)
    assert list(cell["results"]) == ["fp32", "bf16"]
    assert cell["results"]["fp32"]["relative_error"] == 0
    assert cell["threads"] == torch.get_num_threads()
    assert cell["results"]["bf16"]["p50_ms"] > 0
