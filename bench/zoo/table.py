"""docs/zoo.md, from the rows of ``bench/results/zoo.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.harness.results import Row
from bench.markdown import markdown
from bench.zoo.entries import ENTRIES, FEATURES, SOURCES, TIMM, TORCHVISION, TRANSFORMERS

_HEADER = ("family", "model", "capture", "verified", "int8", "beyond", "SQNR, dB", "saved", "stays float")
_COUNTED = 0.0005  # a smaller share of the multiply-accumulates is rounded away
_TITLES = {
    TIMM: "timm",
    FEATURES: "timm, `features_only=True`",
    TORCHVISION: "torchvision",
    TRANSFORMERS: "transformers",
}
_TEXT = """\
# Models

A variant of each transformer family of timm, of its hybrids and of models that mix tokens otherwise, the same as feature
pyramids, and the vision transformers of torchvision and of Hugging Face's transformers. Small images and few blocks, where the
model has an option for them. Random weights, recipe `omse` at W8A8, calibrated on two batches of two random images. Written
by `python -m bench.zoo`; transformers comes with the extra `hf`.

{done} of {total} trace, calibrate, convert, run and load, with {versions}.

- **capture**: `symbolic` or `export`, by `torch.export`.
- **verified**: the graph was compared with the model, at batch sizes 1 and 3, and gives the same.
- **int8**: share of the multiply-accumulates of matrix products and convolutions that run on int8. Products of two activations
  inside attention are float unless the config asks for them. Reasons for less than half a percent are left out.
- **beyond**: multiply-accumulates that torch's own counter finds in the model beyond those of the products of the graph, as a
  share of all it finds: where they depend on weights alone, such as the position biases of SwinV2, the graph holds their
  result.
- **SQNR**: of the int8 output against the float one, the lowest of several, on random weights and random images: a check that
  nothing is broken, no accuracy. -: it has no finite value.
- **saved**: a file loaded in another process gives equal bits.
"""


def render(rows: Sequence[Row], libraries: Mapping[str, str]) -> str:
    """Return the page; libraries: their versions by name."""
    walked = [row for row in rows if not _is_refusal(row)]
    done = sum("stopped" not in row for row in walked)
    versions = ", ".join(f"{library} {version}" for library, version in libraries.items())
    text = _TEXT.format(done=done, total=len(walked), versions=versions)
    return "\n".join([text, *(_section(source, rows) for source in SOURCES)])


def _section(source: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["source"] == source]
    known = {row["family"] for row in own}
    missing = [s.family for s in ENTRIES.values() if s.source == source and s.family not in known]
    walked = [_cells(row) for row in own if not _is_refusal(row)]
    parts = [f"## {_TITLES[source]}\n", markdown(_HEADER, walked, text=len(_HEADER)) + "\n"]
    parts += [f"{refusal}\n" for refusal in _refusals(own)]
    if missing:
        parts.append(f"Not walked yet: {', '.join(missing)}.\n")
    return "\n".join(parts)


def _is_refusal(row: Row) -> bool:
    """Say whether the library itself does not make the model, as timm where a family has no feature pyramid."""
    return str(row.get("stopped", "")).startswith("build: ")


def _refusals(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason why the library does not make models, with the families that it is given for."""
    families: dict[str, list[str]] = {}
    for row in filter(_is_refusal, rows):
        families.setdefault(_text(str(row["stopped"]).removeprefix("build: ")), []).append(row["family"])
    return [f"Not made by the library: {', '.join(names)}: {reason}." for reason, names in families.items()]


def _cells(row: Row) -> tuple[str, ...]:
    verified = {True: "yes", False: "no", None: ""}[row.get("verified")]
    head = (row["family"], f"`{row['model']}`", row.get("capture", ""), verified)
    if "stopped" in row:
        return (*head, "", "", "", "", f"stopped at {_text(row['stopped'])}")
    decibels = "-" if row["sqnr_db"] is None else str(row["sqnr_db"])
    reasons = "; ".join(f"{share:.0%} {_text(reason)}" for reason, share in row["kept_float"].items() if share >= 0.005)
    return (*head, f"{row['coverage']:.1%}", _beyond(row), decibels, "yes" if row["saved"] else "no", reasons)


def _beyond(row: Row) -> str:
    share = (row["counted_macs"] - row["macs"]) / row["counted_macs"]
    return f"{share:+.1%}" if abs(share) >= _COUNTED else "0" if share == 0 else "0.0%"


def _text(reason: str) -> str:
    return " ".join(reason.split())[:240].replace("|", "/")
