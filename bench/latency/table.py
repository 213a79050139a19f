"""The table of README.md, from ``bench/results/latency.json``."""

from __future__ import annotations

import json
from typing import Any

from bench.harness import RESULTS, ROOT
from fxquant.measurement.timing import Timing

README = ROOT / "README.md"
MARKERS = ("<!-- latency:begin -->", "<!-- latency:end -->")
FORMAT = 2  # of the rows; 1 had other columns
SHOWN = (
    *("fp32-compile", "bf16-compile", "pt2e", "torchao-dynamic", "onnxruntime", "openvino-bf16", "openvino-int8-bf16"),
    *("fxquant", "fxquant-compile", "fxquant-bf16-compile"),
)
# Columns of ratios: how much faster the first is than the second.
RATIOS = tuple(
    ("fxquant-bf16-compile", other) for other in ("fp32-compile", "bf16-compile", "pt2e", "openvino-int8-bf16")
)


def render(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table: milliseconds per batch, and the ratios that matter."""
    header = ["model", "batch", *SHOWN, *(f"{one} / {other}" for one, other in RATIOS)]
    lines = [_line(header), _line(["---"] * 2 + ["---:"] * (len(header) - 2))]
    for row in rows:
        results = row["results"]
        cells = [_milliseconds(results.get(name)) for name in SHOWN]
        ratios = [_ratio(results.get(one), results.get(other)) for one, other in RATIOS]
        lines.append(_line([f"`{row['model']}`", str(row["batch"]), *cells, *ratios]))
    return "\n".join(lines)


def update_readme() -> None:
    """Put the table between the markers of README.md; leave with a message where there are no rows for it."""
    file = RESULTS / "latency.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if data.get("format") != FORMAT:
        raise SystemExit("bench/results/latency.json has no rows of this table yet: run python -m bench.latency")
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKERS[0])
    _, found, after = rest.partition(MARKERS[1])
    if not found:
        raise SystemExit(f"expected the lines {MARKERS[0]} and {MARKERS[1]} in README.md")
    README.write_text(
        f"{before}{MARKERS[0]}\n{render(data['rows'])}\n\n{_note(data)}\n{MARKERS[1]}{after}", encoding="utf-8"
    )


def _milliseconds(result: dict[str, Any] | None) -> str:
    if result is None or result["p50_ms"] is None:
        return "-"
    return f"{result['p50_ms']:.0f}" + ("*" if result["status"] == "disagrees" else "")


def _ratio(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    if not one or not other or not one["seconds"] or not other["seconds"]:
        return "-"
    first, second = (Timing(tuple(result["seconds"])) for result in (one, other))
    return f"**{first.speedup_over(second):.2f}x**"


def _note(data: dict[str, Any]) -> str:
    environment, rows = data["environment"], data["rows"]
    threads = sorted({row["threads"] for row in rows})
    features = ", ".join(f for f in environment["features"] if f.endswith(("vnni", "int8", "bf16")))
    engines = ", ".join(f"{name} {version}" for name, version in environment["engines"].items() if name != "triton")
    rounds = sorted({row["rounds"] for row in rows})
    return (
        f"Milliseconds per batch, medians of {' or '.join(map(str, rounds))} interleaved rounds, and the median ratio of "
        f"rounds timed side by side. {environment['processor']} ({features}), {' or '.join(map(str, threads))} threads, torch "
        f"{environment['torch']}, {engines}, {data['date'][:10]}. `bf16` beside a name computes what is not int8 in bfloat16. "
        "-: not measured, failed or not installed; *: its output is too far from the float model's (see the file)."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
