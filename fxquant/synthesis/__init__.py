"""
Calibration images without data: synthesised from the model, or drawn as Gaussian noise.

A name is fetched from its module where it is first used, as the command line needs `SynthesisOptions` alone, and not torch.
"""

from typing import TYPE_CHECKING

from fxquant.lazy import fetch_from

if TYPE_CHECKING:
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
_HOMES = {
    "gaussian": "gaussian_images",
    "image_file": "load_images save_images save_sheet",
    "image_objective": "Losses",
    "make_images": "Progress synthesize",
    "synthesis_options": "SynthesisOptions",
}

if not TYPE_CHECKING:  # else every misspelt name would have a type
    __getattr__ = fetch_from(__name__, _HOMES)
