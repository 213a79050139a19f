"""What decides the figures of the real model: how many images of what, in two splits."""

from __future__ import annotations

import fxquant

# Constants and defaults are chosen on the first split; tables are of the second.
DEVELOPMENT, HELD_OUT = 0, 1
SPLITS = ("development", "held-out")  # their names

TRAINING_IMAGES = 1240  # glyphs that the probe is fitted to, 20 of each class
CALIBRATION_IMAGES = 32
CALIBRATION_BATCH = 8
TEST_IMAGES = 500  # glyphs
PHOTOGRAPH_IMAGES = 100  # crops
STANDS_OUT = 0.5  # from here on a pixel of a saliency map counts as salient

# vvtq has nothing before training, and the training of glfq is for a GPU.
UNTRAINED = tuple(name for name in fxquant.recipes() if name not in ("vvtq", "glfq"))
