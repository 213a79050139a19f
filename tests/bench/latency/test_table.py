"""The tables of the latency benchmark show what there is, and mark what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from bench.latency.isas import NATIVE
from bench.latency.table import FORMAT, SHOWN, engines, every_engine, other_isas, summary
from fxquant.benchmark.run_engines import Outcome, Status
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.timing import Timing


def row(model: str, batch: int, *, threads: int = 1, isa: str = NATIVE, **seconds: float) -> dict[str, Any]:
    outcomes = [Outcome(name.replace("_", "-"), Status.MEASURED, timing=Timing((s,))) for name, s in seconds.items()]
    results = {o.name: o.as_json(batch) for o in outcomes}
    cell = {"model": model, "batch": batch, "threads": threads, "isa": isa}
    facts = {
        "rounds": 1,
        "load": 0.0,
        "int8_file_bytes": 10_000_000,
        "in_use": {"aten": "AVX2", "fxquant": "avx_vnni_evex"},
    }
    return cell | facts | {"results": results}


def written(*measured: dict[str, Any]) -> dict[str, Any]:
    """Return what a results file with these rows holds."""
    return {"format": FORMAT, "date": "2026-01-01", "environment": describe_environment(), "rows": list(measured)}


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
    shown = dict(zip(("model", "batch", "threads", *SHOWN), cells, strict=False))
    assert (shown["bf16-compile"], shown["pt2e"], shown["fxquant-bf16-compile"]) == ("20", "30*", "10")
    assert shown["openvino-int8-bf16"] == "-"
    assert cells[-4:] == ["-", "**2.00x**", "**3.00x**", "-"]


def test_the_short_table_has_small_batches_on_all_threads() -> None:
    rows = [
        row("vit", batch, threads=threads, bf16_compile=batch + threads) for batch in (1, 8, 64) for threads in (1, 2)
    ]
    rows.append(row("vit", 1, threads=4, isa="avx2", bf16_compile=1.0))
    lines = [line for line in summary(written(*rows)).splitlines() if "`vit`" in line]
    assert [line.split("|")[2:4] for line in lines] == [[" 1 ", " 3000 "], [" 8 ", " 10000 "]]
    assert len([line for line in every_engine(written(*rows)).splitlines() if "`vit`" in line]) == 6


def test_engines_have_what_they_ran_and_what_they_take() -> None:
    measured = row("vit", 8, fxquant_bf16_compile=0.01)
    result = {"products": {"int8": 50, "bfloat16": 12}, "relative_error": 0.1, "build_seconds": 9.0, "p95_ms": 12.0}
    result |= {"first_call_seconds": 4.0, "memory_bytes": 13_000_000, "joules_per_image": 0.25}
    measured["results"]["fxquant-bf16-compile"] |= result
    text = engines(written(measured, row("vit", 1, bf16_compile=0.01)))
    wanted = ["`vit`", "fxquant-bf16-compile", "50/62", "20.0", "10", "12", "9.0", "4.0", "13", "1.3", "0.250"]
    assert cells_of(text, "vit") == wanted
    assert "packages, with what they take at rest" in text
    measured["results"]["fxquant-bf16-compile"]["joules_per_image"] = None
    assert "did not let its energy be read" in engines(written(measured))


def test_older_instructions_have_a_table_of_their_own() -> None:
    native = row("vit", 1, bf16_compile=0.02)
    assert other_isas(written(native)).startswith("Not measured yet")
    text = other_isas(written(native, row("vit", 1, isa="avx_vnni", fp32_compile=0.04, fxquant_compile=0.01)))
    cells = cells_of(text.replace("| avx_vnni (`avx_vnni_evex`) ", ""), "vit")
    assert cells[:4] == ["`vit`", "1", "1", "40"]
    assert cells[-2:] == ["**4.00x**", "-"]


def test_there_is_no_table_of_other_rows() -> None:
    with pytest.raises(SystemExit, match="no rows of this table yet"):
        summary({"rows": []})
