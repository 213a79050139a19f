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
from bench.real.splits import CALIBRATION_BATCH, CALIBRATION_IMAGES, SPLITS
from bench.real.weights import load_backbone
from fxquant.numerics.arithmetic import sqnr

PHOTOGRAPHS = 100
STANDS_OUT = 0.5  # from here on a pixel of a saliency map counts as salient


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
    """Load the classifier of glyphs; figures are the error of all logits, and the top-1 beside the float model's."""
    model, calibration, images, labels = load_probe(px, split, **({} if count is None else {"count": count}))

    def score(expected: Tensor, found: Tensor) -> Row:
        return {
            "error": relative_error(expected, found),
            "top1": top1(found, labels),
            "float_top1": top1(expected, labels),
        }

    return Trial(model, calibration, images, score)


def load_maps(split: int, count: int | None) -> Trial:
    """Load the saliency model; figures are the mean absolute error of the maps, and the overlap of what stands out."""

    def score(expected: Tensor, found: Tensor) -> Row:
        wanted, given = expected >= STANDS_OUT, found >= STANDS_OUT
        union = (wanted | given).sum().item()
        iou = (wanted & given).sum().item() / union if union else 1.0  # of all images together
        return {"mae": (expected - found).abs().double().mean().item(), "iou": iou}

    return Trial(load_saliency(), *_photographs(split, count), score)


def load_features(split: int, count: int | None) -> Trial:
    """Load the ViT without a head; figures are the mean cosine of its tokens ``(B, N, C)``, and their SQNR in dB."""
    model = load_backbone(PX)
    model.reset_classifier(0, global_pool="")

    def score(expected: Tensor, found: Tensor) -> Row:
        cosine = F.cosine_similarity(expected, found, dim=-1)
        return {"cosine": cosine.double().mean().item(), "sqnr_db": sqnr(expected, found)}

    return Trial(model, *_photographs(split, count), score)


def _photographs(split: int, count: int | None) -> tuple[list[Tensor], Tensor]:
    """Return calibration batches and images of other photographs."""
    calibration = load_photographs(CALIBRATION, PX, CALIBRATION_IMAGES, seed=split)
    images = load_photographs(SPLITS[split], PX, PHOTOGRAPHS if count is None else count)
    return list(calibration.split(CALIBRATION_BATCH)), images


TASKS: dict[str, Callable[[int, int | None], Trial]] = {
    "glyphs-112": partial(load_glyphs, 112),
    "glyphs-224": partial(load_glyphs, 224),
    "saliency": load_maps,
    "features": load_features,
}
