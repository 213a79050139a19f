"""The table of docs/serving.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import markdown, number


def serving(data: Mapping[str, Any]) -> str:
    """Return latency and throughput of both forms, and what became of the requests."""
    rows = []
    for row in data["rows"]:
        for form, result in row["results"].items():
            times = [number(result[f"p{percent}_ms"], digits=0) for percent in (50, 95, 99)]
            cells = [number(result["requests_per_second"], digits=1), number(result["images_per_batch"], digits=1)]
            right = result["answered"] - result["wrong"]
            rows.append(
                [f"`{row['model']}`", str(row["clients"]), form, *times, *cells, f"{right} of {result['requests']}"]
            )
    head = (
        "model",
        "clients",
        "form",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "requests/s",
        "images in a batch",
        "right answers",
    )
    environment = data["environment"]
    versions = ", ".join(f"{name} {found}" for name, found in data["versions"].items())
    busy = max(row["load"] for row in data["rows"]) > 2 * environment["cores"]
    note = (
        f"Random weights, JPEG files of 224 pixels. Batches of at most {data['max_batch']} images, of which the first waits at "
        f"most {data['max_wait_ms']:g} ms. `bf16` is torch.compile of the bfloat16 model, `int8` fxquant.compile with the rest "
        f"in bfloat16, each on {data['threads']} threads; both servers were driven in turn. The clients took a part of the "
        f"same {environment['cores']} cores. Right: as the same model says offline, of the image alone. "
        f"{environment['processor']}, torch {environment['torch']}, {versions}, {data['date'][:10]}."
    )
    note += " The machine also did other things." * busy
    return f"{markdown(head, rows, text=3)}\n\n{note}"
