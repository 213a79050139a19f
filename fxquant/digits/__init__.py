"""The built-in demo: a small Vision Transformer that reads scikit-learn's handwritten digits."""

from fxquant.digits.images import IMAGE_SIZE, Digits, load_calibration_digits, load_test_digits, load_train_digits
from fxquant.digits.model import WEIGHTS_FILE, build_digits_vit, load_digits_vit, measure_top1

__all__ = [
    "IMAGE_SIZE",
    "WEIGHTS_FILE",
    "Digits",
    "build_digits_vit",
    "load_calibration_digits",
    "load_digits_vit",
    "load_test_digits",
    "load_train_digits",
    "measure_top1",
]
