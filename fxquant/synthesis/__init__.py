"""Calibration images without data: synthesised from the model, or drawn as Gaussian noise."""

from fxquant.synthesis.gaussian import gaussian_images
from fxquant.synthesis.image_file import load_images, save_images, save_sheet
from fxquant.synthesis.image_objective import Losses
from fxquant.synthesis.make_images import Progress, synthesize
from fxquant.synthesis.synthesis_options import SynthesisOptions

__all__ = [
    "Losses",
    "Progress",
    "SynthesisOptions",
    "gaussian_images",
    "load_images",
    "save_images",
    "save_sheet",
    "synthesize",
]
