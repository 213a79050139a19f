"""The two tables of ``bench/results/latency.json``: the short one of README.md, and that of all engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.markdown import markdown
from fxquant.measurement.timing import Timing

FORMAT = 2  # of the rows; 1 had other columns
OURS, FLOAT, OTHER = "fxquant-bf16-compile", "bf16-compile", "openvino-int8-bf16"
SHOWN = (
    *("fp32-compile", "bf16-compile", "pt2e", "torchao-dynamic", "onnxruntime", "openvino-bf16", "openvino-int8-bf16"),
    *("fxquant", "fxquant-compile", "fxquant-bf16-compile"),
)
# Columns of ratios: how much faster the first is than the second.
RATIOS = tuple((OURS, other) for other in ("fp32-compile", FLOAT, "pt2e", OTHER))
_MARKS = "-: not measured, failed or not installed. *: its output is too far from the float model's."


def summary(data: Mapping[str, Any]) -> str:
    """Return five columns: milliseconds per batch of bfloat16, of OpenVINO's int8 and of fxquant, with its two ratios."""
    header = ("model", "batch", "bfloat16, `torch.compile`", "OpenVINO int8", "fxquant int8 (times faster than each)")
    rows = []
    for row in _rows(data):
        results = row["results"]
        ratios = ", ".join(_ratio(results.get(OURS), results.get(other)) for other in (FLOAT, OTHER))
        times = [_milliseconds(results.get(name)) for name in (FLOAT, OTHER, OURS)]
        rows.append([f"`{row['model']}`", str(row["batch"]), *times[:2], f"{times[2]} ({ratios})"])
    beside = "Both int8 columns compute the rest in bfloat16."
    return f"{markdown(header, rows, text=2)}\n\n{_note(data, engines=('openvino',))} {beside} {_MARKS}"


def every_engine(data: Mapping[str, Any]) -> str:
    """Return milliseconds per batch of every engine, and the ratios that matter."""
    header = ("model", "batch", *SHOWN, *(f"{one} / {other}" for one, other in RATIOS))
    rows = []
    for row in _rows(data):
        results = row["results"]
        cells = [_milliseconds(results.get(name)) for name in SHOWN]
        ratios = [f"**{_ratio(results.get(one), results.get(other))}**" for one, other in RATIOS]
        rows.append([f"`{row['model']}`", str(row["batch"]), *cells, *(r.replace("**-**", "-") for r in ratios)])
    beside = "`bf16` beside a name computes what is not int8 in bfloat16."
    return f"{markdown(header, rows, text=2)}\n\n{_note(data, engines=None)} {beside} {_MARKS}"


def _rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    if data.get("format") != FORMAT:
        raise SystemExit("bench/results/latency.json has no rows of this table yet: run python -m bench.latency")
    rows: list[dict[str, Any]] = data["rows"]
    return rows


def _milliseconds(result: dict[str, Any] | None) -> str:
    if result is None or result["p50_ms"] is None:
        return "-"
    return f"{result['p50_ms']:.0f}" + ("*" if result["status"] == "disagrees" else "")


def _ratio(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    if not one or not other or not one["seconds"] or not other["seconds"]:
        return "-"
    first, second = (Timing(tuple(result["seconds"])) for result in (one, other))
    return f"{first.speedup_over(second):.2f}x"


def _note(data: Mapping[str, Any], engines: Sequence[str] | None) -> str:
    """Return what was measured, how and on what; `engines`: whose versions to name, None for all."""
    environment, rows = data["environment"], data["rows"]
    threads = " or ".join(map(str, sorted({row["threads"] for row in rows})))
    features = ", ".join(f for f in environment["features"] if f.endswith(("vnni", "int8", "bf16")))
    known = [name for name in environment["engines"] if (name != "triton" if engines is None else name in engines)]
    versions = ", ".join(f"{name} {environment['engines'][name]}" for name in known)
    rounds = " or ".join(map(str, sorted({row["rounds"] for row in rows})))
    how = f"medians of {rounds} interleaved rounds. Ratios are medians of the ratios of rounds timed side by side."
    machine = f"{environment['processor']} ({features}), {threads} threads, torch {environment['torch']}"
    return f"Milliseconds per batch, random weights: {how} {machine}, {versions}, {data['date'][:10]}."
