"""Observers: how the range of an operand is found, one file each."""

from fxquant.observers.base import Observer, ObserverOptions, QParams
from fxquant.observers.ema import EMA, EMAObserver
from fxquant.observers.minmax import MinMax, MinMaxObserver
from fxquant.observers.omse import OMSE, OMSEObserver
from fxquant.observers.percentile import Percentile, PercentileObserver
from fxquant.observers.power_of_two import PowerOfTwoFactor, PowerOfTwoFactorObserver

__all__ = [
    "EMA",
    "OMSE",
    "EMAObserver",
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
