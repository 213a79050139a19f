"""
Quantisation-aware training: learned step sizes, distillation from several crops, and a regulariser of the weights.

A name is fetched from its module where it is first used, as the command line needs `TrainingOptions` alone, and not torch.
"""

from typing import TYPE_CHECKING

from fxquant.lazy import fetch_from

if TYPE_CHECKING:
    from fxquant.training.epoch_images import AugmentedImages, TrainingData
    from fxquant.training.initialise import initialise_scales
    from fxquant.training.load import load_trained
    from fxquant.training.loop import TrainingResult, refuse_run, train
    from fxquant.training.options import TrainingOptions

__all__ = [
    "AugmentedImages",
    "TrainingData",
    "TrainingOptions",
    "TrainingResult",
    "initialise_scales",
    "load_trained",
    "refuse_run",
    "train",
]
_HOMES = {
    "epoch_images": "AugmentedImages TrainingData",
    "initialise": "initialise_scales",
    "load": "load_trained",
    "loop": "TrainingResult refuse_run train",
    "options": "TrainingOptions",
}

if not TYPE_CHECKING:  # else every misspelt name would have a type
    __getattr__ = fetch_from(__name__, _HOMES)
