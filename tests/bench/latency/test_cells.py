"""Cells of the latency benchmark: measured as the command does, kept in the order of the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.harness.results import describe_run
from bench.latency import __main__ as latency
from bench.latency import cells
from bench.latency.cells import ROWS, LatencyCell, find_measured, run_cell
from bench.latency.isas import NATIVE, environment_of
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors.float_torch import BF16, FP32
from fxquant.kernels.cpu.isa import ISAS as ISAS_OF_KERNELS


def row(model: str, batch: int, ms: float, threads: int = 1, isa: str = NATIVE) -> dict[str, Any]:
    return {"model": model, "batch": batch, "threads": threads, "isa": isa, "results": {"fp32": {"p50_ms": ms}}}


def test_cells_merge_in_the_order_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    (tmp_path / "latency.json").write_text(json.dumps({"rows": [{"model": "of another format"}]}))
    ROWS.add(row("other", 1, 1.0))
    ROWS.add(row("vit_base_patch16_224", 8, 2.0))
    ROWS.add(row("vit_base_patch16_224", 1, 3.0))
    ROWS.add(row("other", 1, 4.0))
    ROWS.add(row("vit_base_patch16_224", 1, 5.0, threads=2), row("vit_base_patch16_224", 1, 6.0, isa="avx2"))
    data = json.loads((tmp_path / "latency.json").read_text())
    found = [(r["model"], r["batch"], r["results"]["fp32"]["p50_ms"]) for r in data["rows"]]
    base = "vit_base_patch16_224"
    assert found == [(base, 1, 3.0), (base, 1, 5.0), (base, 8, 2.0), ("other", 1, 4.0), (base, 1, 6.0)]
    assert data["baseline"] == "bf16-compile"


@pytest.mark.parametrize("competitors", [[FP32, BF16]])
def test_a_cell_is_measured_as_the_command_does(competitors: list[Competitor]) -> None:
    cell = run_cell("test_vit", 2, 1, competitors, img_size=32)
    assert list(cell["results"]) == ["fp32", "bf16"]
    assert cell["results"]["fp32"]["relative_error"] == 0
    assert cell["threads"] == torch.get_num_threads()
    assert cell["results"]["bf16"]["p50_ms"] > 0
    assert cell["int8_file_bytes"] is None, "nothing int8 was measured"


def test_what_a_commit_has_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    run = {"date": "today", "commit": "abc", "environment": {"processor": "EPYC"}}
    monkeypatch.setattr(cells, "describe_run", lambda: run)
    cell = LatencyCell("vit", 8, 2)
    assert find_measured(cell, 11) is None
    measured = row("vit", 8, 1.0, threads=2) | {"commit": "abc-dirty", "machine": "EPYC", "rounds": 11}
    ROWS.add(measured)
    assert find_measured(cell, 11) == measured
    others = [replace(cell, batch=1), replace(cell, threads=1), replace(cell, isa="avx2"), replace(cell, model="swin")]
    assert not any(find_measured(other, 11) for other in others)
    assert find_measured(cell, 21) is None
    for changed in ({"commit": "def"}, {"environment": {"processor": "Xeon"}}):
        monkeypatch.setattr(cells, "describe_run", lambda changed=changed: run | changed)
        assert find_measured(cell, 11) is None


def test_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    monkeypatch.setattr(latency, "write_pages", lambda: None)
    tried: list[LatencyCell] = []

    def measure(cell: LatencyCell, rounds: int, names: list[str], seconds: float) -> dict[str, Any]:
        tried.append(cell)
        if cell.batch == 8 and len(tried) < 3:
            raise SystemExit("killed")
        measured = describe_run()
        facts = {"commit": measured["commit"], "machine": measured["environment"]["processor"], "rounds": rounds}
        return row(cell.model, cell.batch, 1.0, cell.threads, cell.isa) | facts | {"results": {}}

    monkeypatch.setattr(latency, "measure_in_process", measure)
    command = ["bench.latency", "--models", "vit", "--batch", "1", "8", "--threads", "1"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="not measured: vit, batch 8, threads 1, native"):
        latency.main()
    latency.main()
    assert [cell.batch for cell in tried] == [1, 8, 8]
    assert "measured before, at this commit" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--again"])
    latency.main()
    assert [cell.batch for cell in tried] == [1, 8, 8, 1, 8]


def test_a_processor_without_avx_vnni_runs_its_kernels_in_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*names: str) -> None:
        monkeypatch.setattr(
            "bench.latency.isas.isas_here", lambda: [isa for isa in ISAS_OF_KERNELS if isa.name in names]
        )

    here("avx512_vnni", "avx2", "avx_vnni_evex")
    assert environment_of("avx_vnni")["FXQUANT_ISA"] == "avx_vnni_evex"
    assert environment_of("avx2")["FXQUANT_ISA"] == "avx2"
    assert environment_of(NATIVE) == {}
    here("avx_vnni", "avx2", "avx_vnni_evex")
    assert environment_of("avx_vnni")["FXQUANT_ISA"] == "avx_vnni"
