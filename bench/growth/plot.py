"""The plot docs/growth.svg, from ``bench/results/growth.json``: one column per axis, latency above memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness.results import ROOT, read_results, results_file

PLOT = ROOT / "docs" / "growth.svg"
LABELS = {"batch": "batch size", "depth": "blocks", "resolution": "image height and width, pixels"}


def draw(file: Path | None = None) -> None:
    """Write the plot to `file`, docs/growth.svg by default; leave with a message where matplotlib or the figures lack."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("the plot needs matplotlib: pip install 'fxquant[plot]'") from None
    data = read_results("growth")
    if not data:
        raise SystemExit(f"{results_file('growth')} is missing: run python -m bench.growth")
    rows = data["rows"]
    axes = [axis for axis in LABELS if any(row["axis"] == axis for row in rows)]
    figure = Figure(figsize=(4 * len(axes), 6), layout="constrained")
    panels: Any = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        found = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row["value"])
        _draw_panel(panels[0][column], found, "p50_ms", 1.0, "ms per batch")
        _draw_panel(panels[1][column], found, "memory_bytes", 1e6, "MB at the peak of a call")
        panels[0][column].set_title(_title(found))
        panels[1][column].set_xlabel(LABELS[axis])
    panels[0][0].legend()
    environment = data["environment"]
    threads = "/".join(map(str, sorted({row["threads"] for row in rows})))
    figure.suptitle(f"{environment['processor']}, {threads} threads, torch {environment['torch']}", fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "fxquant"}):  # the same figures give the same file
        figure.savefig(file or PLOT, metadata={"Date": None})


def _draw_panel(panel: Any, rows: list[dict[str, Any]], key: str, unit: float, label: str) -> None:
    for name in dict.fromkeys(name for row in rows for name in row["results"]):
        points = [(row["value"], row["results"].get(name, {}).get(key)) for row in rows]
        known = [(x, y / unit) for x, y in points if y is not None]
        if known:
            panel.plot(*zip(*known, strict=True), marker="o", markersize=3, label=name)
    panel.set_ylim(bottom=0)
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)


def _title(rows: list[dict[str, Any]]) -> str:
    fixed = {"batch": "batch {}", "depth": "{} blocks", "resolution": "{} px"}
    first = rows[0]
    kept = [text.format(first[name]) for name, text in fixed.items() if name != first["axis"]]
    return f"{first['model']}\n{', '.join(kept)}"
