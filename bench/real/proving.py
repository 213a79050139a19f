"""
The linear probe as a proving ground for recipes: what to calibrate on, what to measure on, and the two figures.

Choose on `DEVELOPMENT`; tables are of `HELD_OUT`, whose calibration and evaluation images are others. The whole table, with the
other tasks, is measured by ``python -m bench.real``.
"""

from __future__ import annotations

from collections.abc import Callable

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bench.real.glyph_images import load_glyph_images
from bench.real.outputs import relative_error, run, top1
from bench.real.probe import load_classifier
from bench.real.settings import CALIBRATION_BATCH, CALIBRATION_IMAGES, DEVELOPMENT, HELD_OUT, TEST_IMAGES

__all__ = ["DEVELOPMENT", "HELD_OUT", "load_probe", "measure"]


def load_probe(
    px: int, split: int = DEVELOPMENT, count: int = TEST_IMAGES
) -> tuple[VisionTransformer, list[Tensor], Tensor, Tensor]:
    """
    Return the float classifier, the calibration batches ``(8, 3, px, px)``, images ``(count, 3, px, px)`` and their labels.

    No image is in two splits, or among those that the probe was fitted to. Raises `InputError` as `load_classifier` does, and
    where the split has no `count` images.
    """
    model = load_classifier(px)
    calibration = load_glyph_images("calibration", px, CALIBRATION_IMAGES, split)
    test = load_glyph_images("test", px, count, split)
    return model, list(calibration.images.split(CALIBRATION_BATCH)), test.images, test.labels


def measure(
    float_model: Callable[[Tensor], Tensor], quantized: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[float, float, float]:
    """Return the relative error of all logits, and the top-1 in percent of the quantised and of the float model."""
    expected, found = run(float_model, images, "float"), run(quantized, images, "quantised")
    return relative_error(expected, found), top1(found, labels), top1(expected, labels)
