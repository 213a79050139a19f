"""fxquant: Vision Transformers on int8, as a compiler that people can read."""

from fxquant import models
from fxquant.api import calibrate, compile, convert, prepare, prepare_qat, quantize, trace
from fxquant.checkpoint import load, save
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import IntegerNorm, Role, TensorSpec
from fxquant.config.placement import Placement, Value
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import recipe, recipes
from fxquant.config.search import Gradient, Inputs, Metric, Noise, NoisyBias, ScaleSearch
from fxquant.errors import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    FxquantError,
    InputError,
    PassError,
    TrainingError,
    UnsupportedGraphError,
)
from fxquant.inspection.report import Report, report
from fxquant.numerics.granularity import PerChannel, PerHead, PerProjection, PerTensor, RowGroups
from fxquant.observers import (
    EMA,
    OMSE,
    BinaryWeightStep,
    GradientScale,
    LearnedStep,
    LearnedWeightStep,
    MinMax,
    Percentile,
    PowerOfTwoFactor,
)
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.twin import TwinGELU, TwinSoftmax
from fxquant.synthesis import synthesize
from fxquant.version import __version__ as __version__

__all__ = [
    "EMA",
    "OMSE",
    "BinaryWeightStep",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "FxquantError",
    "Gradient",
    "GradientScale",
    "InputError",
    "Inputs",
    "IntegerNorm",
    "LayerSpec",
    "LearnedStep",
    "LearnedWeightStep",
    "Log2",
    "LogIntSoftmax",
    "Metric",
    "MinMax",
    "Noise",
    "NoisyBias",
    "PassError",
    "PerChannel",
    "PerHead",
    "PerProjection",
    "PerTensor",
    "Percentile",
    "Placement",
    "PowerOfTwoFactor",
    "QuantConfig",
    "Report",
    "Role",
    "RowGroups",
    "ScaleSearch",
    "TensorSpec",
    "TrainingError",
    "TwinGELU",
    "TwinSoftmax",
    "UnsupportedGraphError",
    "Value",
    "calibrate",
    "compile",
    "convert",
    "load",
    "models",
    "prepare",
    "prepare_qat",
    "quantize",
    "recipe",
    "recipes",
    "report",
    "save",
    "synthesize",
    "trace",
]
