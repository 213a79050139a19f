"""The tables of ``bench/results/latency.json``: the short one of README.md, and those of docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.latency.isas import NATIVE
from bench.markdown import markdown, number
from fxquant.measurement.timing import Timing

FORMAT = 3  # of the rows; 2 had one number of threads, and no instructions
OURS, FLOAT, OTHER = "fxquant-bf16-compile", "bf16-compile", "openvino-int8-bf16"
SHOWN = (
    *("fp32-compile", "bf16-compile", "pt2e", "torchao-dynamic", "onnxruntime", "openvino-bf16", "openvino-int8-bf16"),
    *("fxquant", "fxquant-compile", "fxquant-bf16-compile"),
)
# Columns of ratios: how much faster the first is than the second.
RATIOS = tuple((OURS, other) for other in ("fp32-compile", FLOAT, "pt2e", OTHER))
SUMMARY_BATCHES = (1, 8)
DETAILED_BATCH = 8
# Where bfloat16 has no instructions of its own, float32 is what others run.
PINNED = ("fp32-compile", "bf16-compile", "pt2e", "onnxruntime", "openvino-int8", "fxquant-compile", OURS)
ENGINES = tuple(dict.fromkeys((*SHOWN, *PINNED)))
PINNED_RATIOS = tuple(("fxquant-compile", other) for other in ("fp32-compile", "pt2e"))
_MARKS = "-: not measured, failed or not installed. *: its output is too far from the float model's."
_BESIDE = "`bf16` beside a name computes what is not int8 in bfloat16."
Results = Mapping[str, Any]


def summary(data: Mapping[str, Any]) -> str:
    """Return five columns: milliseconds per batch of bfloat16, of OpenVINO's int8 and of fxquant, with its two ratios."""
    header = ("model", "batch", "bfloat16, `torch.compile`", "OpenVINO int8", "fxquant int8 (times faster than each)")
    found = [row for row in _with_most_threads(_rows(data)) if row["batch"] in SUMMARY_BATCHES]
    rows = []
    for row in found:
        results = row["results"]
        ratios = ", ".join(_ratio(results.get(OURS), results.get(other)) for other in (FLOAT, OTHER))
        times = [_milliseconds(results.get(name)) for name in (FLOAT, OTHER, OURS)]
        rows.append([f"`{row['model']}`", str(row["batch"]), *times[:2], f"{times[2]} ({ratios})"])
    beside = "Both int8 columns compute the rest in bfloat16."
    return f"{markdown(header, rows, text=2)}\n\n{_note(data, found, engines=('openvino',))} {beside} {_MARKS}"


def every_engine(data: Mapping[str, Any]) -> str:
    """Return milliseconds per batch of every engine, and the ratios that matter."""
    found = _rows(data)
    return _times(data, found, ("model", "batch", "threads"), _setting, SHOWN, RATIOS)


def other_isas(data: Mapping[str, Any]) -> str:
    """Return the times of the engines that can be held to older instructions."""
    found = _rows(data, native=False)
    if not found:
        return "Not measured yet: `python -m bench.latency --isa avx2 avx_vnni avx512`."
    return _times(data, found, ("instructions", "model", "batch", "threads"), _pinned, PINNED, PINNED_RATIOS)


def engines(data: Mapping[str, Any]) -> str:
    """Return what each engine ran, how close it came, its first call, its memory and its energy, for a batch of 8."""
    found = [row for row in _with_most_threads(_rows(data)) if row["batch"] == DETAILED_BATCH]
    rows = [
        [f"`{row['model']}`", name, *_details(row["results"][name], row["int8_file_bytes"])]
        for row in found
        for name in SHOWN
        if row["results"].get(name, {}).get("p50_ms") is not None
    ]
    head = (
        *("model", "engine", "int8 products", "SQNR dB", "p50 ms", "p95 ms", "ready, s", "first call, s"),
        *("peak MB", "peak / int8 file", "J per image"),
    )
    told = any(result.get("joules_per_image") is not None for row in found for result in row["results"].values())
    energy = (
        "J: of the processor's packages, with what they take at rest."
        if told
        else "J: the machine did not let its energy be read."
    )
    note = (
        f"Batches of {DETAILED_BATCH}. Int8 products: of all matrix products that the engine's own graph or profile shows. "
        "SQNR: of the logits, against the float model. Ready: until the first call is done, with calibration and export; the "
        "first call alone is where torch compiles. Peak: by which the process grows, at most, from before the engine is built "
        f"to the end of a call. {energy} Other facts: as above."
    )
    return f"{markdown(head, rows, text=2)}\n\n{note}"


def _times(
    data: Mapping[str, Any],
    found: Sequence[Results],
    head: tuple[str, ...],
    setting: Callable[[Results], list[str]],
    shown: Sequence[str],
    ratios: Sequence[tuple[str, str]],
) -> str:
    rows = []
    for row in found:
        results = row["results"]
        cells = [_milliseconds(results.get(name)) for name in shown]
        faster = [f"**{_ratio(results.get(one), results.get(other))}**" for one, other in ratios]
        rows.append([*setting(row), *cells, *(r.replace("**-**", "-") for r in faster)])
    header = (*head, *shown, *(f"{one} / {other}" for one, other in ratios))
    return f"{markdown(header, rows, text=len(head))}\n\n{_note(data, found, engines=None)} {_BESIDE} {_MARKS}"


def _setting(row: Results) -> list[str]:
    return [f"`{row['model']}`", str(row["batch"]), str(row["threads"])]


def _pinned(row: Results) -> list[str]:
    kernels = row["in_use"]["fxquant"]
    return [row["isa"] if kernels == row["isa"] else f"{row['isa']} (`{kernels}`)", *_setting(row)]


def _details(result: Results, file_bytes: int | None) -> list[str]:
    error, memory, products = result["relative_error"], result["memory_bytes"], result["products"] or {}
    return [
        f"{products.get('int8', 0)}/{sum(products.values())}",
        "" if not error else f"{-20 * math.log10(error):.1f}",
        number(result["p50_ms"], digits=0),
        number(result["p95_ms"], digits=0),
        number(result["build_seconds"], digits=1),
        number(result["first_call_seconds"], digits=1),
        number(memory, 1e-6, 0),
        "" if memory is None or file_bytes is None else f"{memory / file_bytes:.1f}",
        number(result["joules_per_image"], digits=3),
    ]


def _rows(data: Mapping[str, Any], native: bool = True) -> list[dict[str, Any]]:
    if data.get("format") != FORMAT:
        raise SystemExit("bench/results/latency.json has no rows of this table yet: run python -m bench.latency")
    return [row for row in data["rows"] if (row["isa"] == NATIVE) is native]


def _with_most_threads(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    most = max((row["threads"] for row in rows), default=0)
    return [row for row in rows if row["threads"] == most]


def _milliseconds(result: dict[str, Any] | None) -> str:
    if result is None or result["p50_ms"] is None:
        return "-"
    return f"{result['p50_ms']:.0f}" + ("*" if result["status"] == "disagrees" else "")


def _ratio(one: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    if not one or not other or not one["seconds"] or not other["seconds"]:
        return "-"
    first, second = (Timing(tuple(result["seconds"])) for result in (one, other))
    return f"{first.speedup_over(second):.2f}x"


def _note(data: Mapping[str, Any], rows: Sequence[Results], engines: Sequence[str] | None) -> str:
    """Return what was measured, how and on what; `engines`: whose versions to name, None for all."""
    environment = data["environment"]
    threads = " or ".join(map(str, sorted({row["threads"] for row in rows})))
    features = ", ".join(f for f in environment["features"] if f.endswith(("vnni", "int8", "bf16")))
    known = [name for name in environment["engines"] if (name != "triton" if engines is None else name in engines)]
    versions = ", ".join(f"{name} {environment['engines'][name]}" for name in known)
    lengths = {len(r["seconds"]) for row in rows for r in row["results"].values() if r["seconds"]}
    rounds = " or ".join(map(str, sorted(lengths)))
    how = f"medians of {rounds} interleaved rounds. Ratios are medians of the ratios of rounds timed side by side."
    machine = f"{environment['processor']} ({features}), {threads} threads, torch {environment['torch']}"
    return f"Milliseconds per batch, random weights: {how} {machine}, {versions}, {data['date'][:10]}."
