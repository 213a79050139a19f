"""The table of README.md, from ``bench/results/latency.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import RESULTS

README = Path(__file__).parents[1] / "README.md"
MARKERS = ("<!-- latency:begin -->", "<!-- latency:end -->")
SHOWN = ("fp32", "fp32 compile", "bf16 compile", "int8", "int8 compile", "int8 bf16 compile")
# Columns of ratios: how much faster the first is than the second.
RATIOS = (
    ("int8 compile", "fp32 compile"),
    ("int8 bf16 compile", "fp32 compile"),
    ("int8 bf16 compile", "bf16 compile"),
)


def render(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table: milliseconds per batch, and the ratios that matter."""
    header = ["model", "batch", *SHOWN, *(f"{one} / {other}" for one, other in RATIOS)]
    lines = [_line(header), _line(["---"] * 2 + ["---:"] * (len(header) - 2))]
    for row in rows:
        results = row["results"]
        cells = [f"{results[name]['median_ms']:.0f}" for name in SHOWN]
        ratios = [f"**{results[one]['times_faster_than'][other]:.1f}x**" for one, other in RATIOS]
        lines.append(_line([f"`{row['model']}`", str(row["batch"]), *cells, *ratios]))
    return "\n".join(lines)


def update_readme() -> None:
    """Put the table between the markers of README.md."""
    data = json.loads((RESULTS / "latency.json").read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKERS[0])
    _, found, after = rest.partition(MARKERS[1])
    if not found:
        raise SystemExit(f"expected the lines {MARKERS[0]} and {MARKERS[1]} in README.md")
    README.write_text(
        f"{before}{MARKERS[0]}\n{render(data['rows'])}\n\n{_note(data)}\n{MARKERS[1]}{after}", encoding="utf-8"
    )


def _note(data: dict[str, Any]) -> str:
    environment, rows = data["environment"], data["rows"]
    threads = sorted({row["threads"] for row in rows})
    features = ", ".join(f for f in environment["features"] if f.endswith(("vnni", "int8", "bf16")))
    return (
        f"Milliseconds per batch, medians of {max(row['rounds'] for row in rows)} interleaved rounds, and the median ratio of "
        f"rounds timed side by side. {environment['processor']} ({features}), {' or '.join(map(str, threads))} threads, torch "
        f"{environment['torch']}, {data['date'][:10]}. `int8 bf16` computes what is not int8 in bfloat16."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
