"""How fast the answers came, and whether each was the one that its image should have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bench.harness.results import Row
from bench.serving.client import Answer
from fxquant.measurement.timing import Timing

# Of a probability: batches of other sizes may be rounded otherwise, by a step of bfloat16 or of a code here and there.
TOLERANCE = 0.01


def summarise(answers: Sequence[Answer], seconds: float, requests: int, offline: Tensor) -> Row:
    """Return percentiles of the latency, throughput, and what was answered; seconds: of all, offline: ``(B, classes)``."""
    good = [answer for answer in answers if answer.status == 200]
    differences = [difference(answer.body, offline[answer.image]) for answer in good]
    timing = Timing(tuple(answer.seconds for answer in good))
    return {
        **{f"p{percent}_ms": round(timing.percentile(percent) * 1e3, 2) if good else None for percent in (50, 95, 99)},
        "requests_per_second": round(len(good) / seconds, 2),
        "requests": requests,
        "answered": len(good),
        "refused": sum(answer.status == 503 for answer in answers),
        "failed": sum(answer.status not in (200, 503) for answer in answers),
        "lost": requests - len(answers),
        "wrong": sum(each > TOLERANCE for each in differences),
        "largest_difference": round(max(differences), 5) if differences else None,
    }


def difference(body: Any, wanted: Tensor) -> float:
    """
    Return by which part a probability of an answer is off at most, or falls short of the likeliest class.

    wanted: the probabilities ``(classes,)`` of the image.
    """
    classes = body["classes"]
    probabilities: list[float] = wanted.tolist()
    best = 1 - probabilities[classes[0]["index"]] / max(probabilities)
    off: float = max(best, *(abs(each["probability"] / probabilities[each["index"]] - 1) for each in classes))
    return off


def refuse_alike(offline: Tensor) -> None:
    """Raise `SystemExit` where the answer for one image could be taken for that of another; offline: ``(B, classes)``."""
    for number, row in enumerate(offline):
        classes = row.topk(3).indices
        off = (offline[:, classes] / row[classes] - 1).abs().amax(1)
        off[number] = 1
        if off.min() <= 2 * TOLERANCE:
            raise SystemExit(f"images {number} and {int(off.argmin())} have nearly the same probabilities: send others")
