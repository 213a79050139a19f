"""The two splits: choose constants and defaults on one, and put what the other gives into the tables."""

from __future__ import annotations

DEVELOPMENT, HELD_OUT = 0, 1
SPLITS = ("development", "held-out")  # their names
CALIBRATION_IMAGES = 32
CALIBRATION_BATCH = 8
