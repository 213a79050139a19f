"""Quantisation-aware training: learned step sizes, distillation from several crops, and a regulariser of the weights."""

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
