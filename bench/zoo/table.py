"""docs/zoo.md, from the rows of ``bench/results/zoo.json``."""

from __future__ import annotations

from bench.harness.results import Row
from bench.markdown import markdown
from bench.zoo.entries import FAMILIES

VERBS = ("trace", "prepare", "calibrate", "convert", "run")
_HEADER = ("family", "model", "capture", "exact", "prepare", "convert", "run", "int8", "SQNR, dB", "stays float")
_TEXT = """\
# Models

One small variant of each transformer family in timm {timm}, of its hybrids and of models that mix tokens otherwise. Random
weights, recipe `default` at W8A8, calibrated on four random images. Written by `python -m bench.zoo`.

{done} of {total} trace, prepare, convert and run; {exact} of the graphs equal their model bit for bit.
Not walked yet: {missing}.

- **capture**: `symbolic` needs no example; `export` needs `fxquant.trace(model, example_inputs=images)`.
- **exact**: the graph gives exactly what the model gives, at two batch sizes that it was not traced with, 1 and 3; otherwise
  the largest difference, relative to the largest output.
- **int8**: share of the multiply-accumulates of matrix products and convolutions that run on int8. Products of two activations
  inside attention are float unless the config asks for them. Reasons for less than half a percent are left out.
- **SQNR**: of the int8 output against the float one, on random weights and random images: a check that nothing is broken, no
  accuracy. -: it has no finite value.
"""


def render(rows: dict[str, Row], timm_version: str) -> str:
    """Return the page."""
    done = sum("stopped" not in row for row in rows.values())
    exact = sum(row["exact"] is True for row in rows.values())
    missing = ", ".join(family for family in FAMILIES if family not in rows) or "none"
    text = _TEXT.format(timm=timm_version, done=done, total=len(rows), exact=exact, missing=missing)
    return f"{text}\n{markdown(_HEADER, [_cells(*item) for item in rows.items()], text=len(_HEADER))}\n"


def _cells(family: str, row: Row) -> tuple[str, ...]:
    head = (family, f"`{row['model']}`", row["capture"] or "refused", _exactness(row))
    if "stopped" not in row:
        reasons = "; ".join(f"{share:.0%} {reason}" for reason, share in row["kept_float"].items() if share >= 0.005)
        return (
            *head,
            "yes",
            "yes",
            "yes",
            f"{row['coverage']:.1%}",
            "-" if row["sqnr_db"] is None else str(row["sqnr_db"]),
            reasons.replace("|", "/"),
        )
    verb, _, reason = " ".join(str(row["stopped"]).split()).partition(": ")
    reached = VERBS.index(verb) if verb in VERBS else 0
    # calibration failing is said of prepare's model, so it has no column of its own
    passed = tuple("yes" if reached > VERBS.index(v) else "no" for v in ("prepare", "convert", "run"))
    return (*head, *passed, "", "", f"stopped at {verb}: {reason[:240]}".replace("|", "/"))


def _exactness(row: Row) -> str:
    difference = row.get("difference")
    return (
        "yes" if row["exact"] else "" if row["exact"] is None else "no" if difference is None else f"{difference:.0e}"
    )
