"""The tasks of the proving ground: a model, what to calibrate and measure it on, and how far its outputs are from float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from bench.harness.results import Row
from bench.real.outputs import relative_error, top1
from bench.real.photographs import CALIBRATION, load_photographs
from bench.real.proving import load_probe
from bench.real.saliency import PX, load_saliency
from bench.real.settings import (
    CALIBRATION_BATCH,
    CALIBRATION_IMAGES,
    PHOTOGRAPH_IMAGES,
    SPLITS,
    STANDS_OUT,
    TEST_IMAGES,
)
from bench.real.weights import load_backbone
from fxquant.numerics.arithmetic import sqnr


@dataclass(frozen=True)
class Trial:
    """
    One task on one split.

    calibration: batches ``(8, 3, px, px)``. images: ``(B, 3, px, px)``. score: the figures of what a quantised model gives
    for `images`, from what the float model gives and that.
    """

    model: nn.Module
    calibration: list[Tensor]
    images: Tensor
    score: Callable[[Tensor, Tensor], Row]


def load_glyphs(px: int, split: int, count: int | None) -> Trial:
    """Load the classifier of glyphs."""
    model, calibration, images, labels = load_probe(px, split, TEST_IMAGES if count is None else count)
    return Trial(model, calibration, images, partial(score_logits, labels))


def load_maps(split: int, count: int | None) -> Trial:
    """Load the saliency model."""
    return Trial(load_saliency(), *_photographs(split, count), score_maps)


def load_features(split: int, count: int | None) -> Trial:
    """Load the ViT without a head; it gives all tokens ``(B, N, C)``."""
    model = load_backbone(PX)
    model.reset_classifier(0, global_pool="")
    return Trial(model, *_photographs(split, count), score_tokens)


def score_logits(labels: Tensor, expected: Tensor, found: Tensor) -> Row:
    """Return the error of all logits ``(B, classes)``, and the top-1 in percent with that of the float model."""
    return {"error": relative_error(expected, found), "top1": top1(found, labels), "float_top1": top1(expected, labels)}


def score_maps(expected: Tensor, found: Tensor) -> Row:
    """Return the mean absolute error of maps ``(B, 1, px, px)``, and how what stands out overlaps in all of them."""
    wanted, given = expected >= STANDS_OUT, found >= STANDS_OUT
    union = int((wanted | given).sum())
    iou = int((wanted & given).sum()) / union if union else 1.0
    return {"mae": float((expected - found).abs().double().mean()), "iou": iou}


def score_tokens(expected: Tensor, found: Tensor) -> Row:
    """Return the mean cosine of tokens ``(B, N, C)`` with their float, and their SQNR in dB."""
    cosine = F.cosine_similarity(expected, found, dim=-1)
    return {"cosine": float(cosine.double().mean()), "sqnr_db": sqnr(expected, found)}


def _photographs(split: int, count: int | None) -> tuple[list[Tensor], Tensor]:
    """Return calibration batches and images of other photographs."""
    calibration = load_photographs(CALIBRATION, PX, CALIBRATION_IMAGES, seed=split)
    images = load_photographs(SPLITS[split], PX, PHOTOGRAPH_IMAGES if count is None else count)
    return list(calibration.split(CALIBRATION_BATCH)), images


TASKS: dict[str, Callable[[int, int | None], Trial]] = {
    "glyphs-112": partial(load_glyphs, 112),
    "glyphs-224": partial(load_glyphs, 224),
    "saliency": load_maps,
    "features": load_features,
}
