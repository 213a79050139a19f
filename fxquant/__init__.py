"""
fxquant: Vision Transformers on int8, as a compiler that people can read.

Importing it costs next to nothing: a public name is fetched from its module, and torch with it, where it is first used.
"""

from typing import TYPE_CHECKING

from fxquant.lazy import fetch_from
from fxquant.registration import register_with_timm
from fxquant.version import __version__ as __version__

if TYPE_CHECKING:
    from fxquant import models
    from fxquant.api import calibrate, compile, convert, prepare, prepare_qat, quantize, trace
    from fxquant.checkpoint import load, save
    from fxquant.config.float8 import Float8
    from fxquant.config.folds import Folds, Reparameterize, Smooth
    from fxquant.config.layer_spec import LayerSpec
    from fxquant.config.operands import IntegerNorm, Role, TensorSpec, Value
    from fxquant.config.placement import Placement
    from fxquant.config.quant_config import QuantConfig
    from fxquant.config.recipes.book import recipe, recipes
    from fxquant.config.search import Gradient, Inputs, Metric, Noise, NoisyBias, ScaleSearch
    from fxquant.config.weight_fit import Correction, Rounding, WeightFit
    from fxquant.data.data_config import DataConfig
    from fxquant.diagnosis.answers import Diagnosis
    from fxquant.diagnosis.doctor import doctor
    from fxquant.diagnosis.section import DoctorSection
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
    from fxquant.graph.card import MeasuredAccuracy, ModelCard, UsedRecipe
    from fxquant.inspection.inspect import Inspection, inspect
    from fxquant.inspection.report import Report, report
    from fxquant.numerics.granularity import (
        OutlierTokens,
        PerChannel,
        PerHead,
        PerProjection,
        PerTensor,
        PerToken,
        RowGroups,
    )
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
    from fxquant.observers.adalog import AdaLogGELU, AdaLogSoftmax
    from fxquant.observers.log2 import Log2, LogIntSoftmax
    from fxquant.observers.twin import TwinGELU, TwinSoftmax
    from fxquant.onnx_export import export_onnx
    from fxquant.precision.compare import ComparedNode, Comparison, compare
    from fxquant.precision.mixed import MixedPrecision, mixed
    from fxquant.precision.precision_budget import PrecisionBudget
    from fxquant.precision.sensitivity import SensitivityTable, SiteCost, sensitivity
    from fxquant.reconstruction import reconstruct
    from fxquant.synthesis import synthesize
    from fxquant.torch_export.aoti_package import export_aoti
    from fxquant.torch_export.pt2e_program import export_pt2e

__all__ = [
    "EMA",
    "OMSE",
    "AdaLogGELU",
    "AdaLogSoftmax",
    "BinaryWeightStep",
    "CalibrationError",
    "CheckpointError",
    "ComparedNode",
    "Comparison",
    "ConfigError",
    "Correction",
    "DataConfig",
    "Diagnosis",
    "DoctorSection",
    "Float8",
    "Folds",
    "FxquantError",
    "Gradient",
    "GradientScale",
    "InputError",
    "Inputs",
    "Inspection",
    "IntegerNorm",
    "LayerSpec",
    "LearnedStep",
    "LearnedWeightStep",
    "Log2",
    "LogIntSoftmax",
    "MeasuredAccuracy",
    "Metric",
    "MinMax",
    "MixedPrecision",
    "ModelCard",
    "Noise",
    "NoisyBias",
    "OutlierTokens",
    "PassError",
    "PerChannel",
    "PerHead",
    "PerProjection",
    "PerTensor",
    "PerToken",
    "Percentile",
    "Placement",
    "PowerOfTwoFactor",
    "PrecisionBudget",
    "QuantConfig",
    "Reparameterize",
    "Report",
    "Role",
    "Rounding",
    "RowGroups",
    "ScaleSearch",
    "SensitivityTable",
    "SiteCost",
    "Smooth",
    "TensorSpec",
    "TrainingError",
    "TwinGELU",
    "TwinSoftmax",
    "UnsupportedGraphError",
    "UsedRecipe",
    "Value",
    "WeightFit",
    "calibrate",
    "compare",
    "compile",
    "convert",
    "doctor",
    "export_aoti",
    "export_onnx",
    "export_pt2e",
    "inspect",
    "load",
    "mixed",
    "models",
    "prepare",
    "prepare_qat",
    "quantize",
    "recipe",
    "recipes",
    "reconstruct",
    "report",
    "save",
    "sensitivity",
    "synthesize",
    "trace",
]

# Where each public name is defined: what the imports above say, which are for type checkers alone.
_HOMES = {
    "api": "calibrate compile convert prepare prepare_qat quantize trace",
    "checkpoint": "load save",
    "config.float8": "Float8",
    "config.folds": "Folds Reparameterize Smooth",
    "config.layer_spec": "LayerSpec",
    "config.operands": "IntegerNorm Role TensorSpec Value",
    "config.placement": "Placement",
    "config.quant_config": "QuantConfig",
    "config.recipes.book": "recipe recipes",
    "config.search": "Gradient Inputs Metric Noise NoisyBias ScaleSearch",
    "config.weight_fit": "Correction Rounding WeightFit",
    "data.data_config": "DataConfig",
    "diagnosis.answers": "Diagnosis",
    "diagnosis.doctor": "doctor",
    "diagnosis.section": "DoctorSection",
    "errors": "CalibrationError CheckpointError ConfigError FxquantError InputError PassError "
    "TrainingError UnsupportedGraphError",
    "graph.card": "MeasuredAccuracy ModelCard UsedRecipe",
    "inspection.inspect": "Inspection inspect",
    "inspection.report": "Report report",
    "numerics.granularity": "OutlierTokens PerChannel PerHead PerProjection PerTensor PerToken RowGroups",
    "observers": "EMA OMSE BinaryWeightStep GradientScale LearnedStep LearnedWeightStep MinMax Percentile PowerOfTwoFactor",
    "onnx_export": "export_onnx",
    "observers.adalog": "AdaLogGELU AdaLogSoftmax",
    "observers.log2": "Log2 LogIntSoftmax",
    "observers.twin": "TwinGELU TwinSoftmax",
    "precision.precision_budget": "PrecisionBudget",
    "precision.compare": "ComparedNode Comparison compare",
    "precision.mixed": "MixedPrecision mixed",
    "precision.sensitivity": "SensitivityTable SiteCost sensitivity",
    "reconstruction": "reconstruct",
    "synthesis": "synthesize",
    "torch_export.aoti_package": "export_aoti",
    "torch_export.pt2e_program": "export_pt2e",
}

register_with_timm()


if not TYPE_CHECKING:  # else every misspelt name would have a type
    __getattr__ = fetch_from(__name__, _HOMES)


def __dir__() -> list[str]:
    """Return the public names, fetched or not, and none of what they are made with."""
    return sorted([*__all__, "__version__"])
