"""Observers: how the range of an operand is found, one file each."""

from fxquant.observers.base import Observer, ObserverOptions, QParams
from fxquant.observers.binary import BinaryWeightQuantizer, BinaryWeightStep
from fxquant.observers.ema import EMA, EMAObserver
from fxquant.observers.learned_step import (
    GradientScale,
    LearnedStep,
    LearnedStepQuantizer,
    LearnedWeightQuantizer,
    LearnedWeightStep,
)
from fxquant.observers.minmax import MinMax, MinMaxObserver
from fxquant.observers.omse import OMSE, OMSEObserver
from fxquant.observers.percentile import Percentile, PercentileObserver
from fxquant.observers.power_of_two import PowerOfTwoFactor, PowerOfTwoFactorObserver

__all__ = [
    "EMA",
    "OMSE",
    "BinaryWeightQuantizer",
    "BinaryWeightStep",
    "EMAObserver",
    "GradientScale",
    "LearnedStep",
    "LearnedStepQuantizer",
    "LearnedWeightQuantizer",
    "LearnedWeightStep",
    "MinMax",
    "MinMaxObserver",
    "OMSEObserver",
    "Observer",
    "ObserverOptions",
    "Percentile",
    "PercentileObserver",
    "PowerOfTwoFactor",
    "PowerOfTwoFactorObserver",
    "QParams",
]
