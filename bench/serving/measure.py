"""How fast the answers came, and whether each was the one that its image should have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from bench.harness.results import Row
from bench.serving.client import Answer
from fxquant.measurement.timing import Timing

# Of a probability: batches of other sizes are rounded otherwise, by a step of bfloat16 or of a code here and there.
TOLERANCE = 0.05


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
    Return by which part a probability of an answer is off at most; 1 where another class is the likeliest by more than that.

    wanted: the probabilities ``(classes,)`` of the image.
    """
    classes = body["classes"]
    found = wanted[[each["index"] for each in classes]]
    best = float(1 - found[0] / wanted.max())
    return max(best, *(abs(each["probability"] / float(p) - 1) for each, p in zip(classes, found, strict=True)))
