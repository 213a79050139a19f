"""Which inputs of linear layers have outlier tokens, and whether one scale serves all tokens there."""

from __future__ import annotations

from dataclasses import dataclass

from fxquant.api import calibrate, prepare
from fxquant.config.recipes.book import recipe
from fxquant.diagnosis.examined import Examined, FloatSide
from fxquant.diagnosis.section import DoctorSection
from fxquant.errors import FxquantError
from fxquant.inspection.report import Report
from fxquant.numerics.granularity import OutlierTokens, PerToken
from fxquant.observers.outlier_tokens import OutlierTokensObserver
from fxquant.precision.operand_groups import observed

_RATIO = OutlierTokens().ratio
_HEADER = ("input", "widest token", "scale")
_SHOWN = 10
_NAMED = 3


@dataclass(frozen=True)
class _Outlier:
    operand: str
    ratio: float
    granularity: str


def check_tokens(examined: Examined, report: Report) -> DoctorSection:
    """
    Return the inputs of linear layers in which the widest token has many times the range of the median one.

    They are measured on the float model and the calibration images; of a quantised graph alone it is known where calibration
    chose the scale by it.
    """
    name, title = "tokens", "Are there outlier tokens?"
    if examined.source is None:
        found = [
            _Outlier(f"{r.name}.{o.name}", o.token_ratio, o.granularity or "float")
            for r in report
            for o in r.operands
            if o.token_ratio is not None
        ]
        if not found:
            return DoctorSection(name, title, left_out="it needs the float model, or a recipe that measured it")
    elif examined.made_up:
        return DoctorSection(name, title, left_out="it needs images: there are none")
    else:
        try:
            found = _measured(examined.source)
        except FxquantError as error:
            return DoctorSection(name, title, left_out=f"the model could not be observed: {error}")
    return _section(name, title, found)


def _measured(source: FloatSide) -> list[_Outlier]:
    """Return the inputs of all linear layers, with the scales that they have in the prepared graph."""
    own = {observer.operand: str(observer.granularity) for _, observer in observed(source.prepared)}
    config = recipe("dynamic", 8, 8, outliers=_RATIO)
    prepared = calibrate(prepare(source.traced, config), source.batches, progress=False)
    found = {o.operand: o for _, o in observed(prepared) if isinstance(o, OutlierTokensObserver)}
    return [_Outlier(operand, o.token_ratio, own.get(operand, "float")) for operand, o in found.items()]


def _section(name: str, title: str, found: list[_Outlier]) -> DoctorSection:
    outliers = sorted((o for o in found if o.ratio > _RATIO), key=lambda o: -o.ratio)
    shared = [o for o in outliers if o.granularity not in ("float", str(PerToken()))]
    rows = tuple((o.operand, f"{o.ratio:.1f}x", o.granularity) for o in outliers[:_SHOWN])
    warnings: list[str] = []
    if shared:
        names = ", ".join(o.operand for o in shared[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
        warnings.append(
            f"{len(shared)} inputs have one scale for all tokens although the widest token has up to {shared[0].ratio:.1f} "
            f"times the range of the median one: {names}; recipes default and dynamic give such tokens scales of their own"
        )
    line = f"{len(outliers)} of {len(found)} inputs of linear layers have a token over {_RATIO:g} times as wide as the median"
    figures = {"ratios": {o.operand: o.ratio for o in found}, "ratio": _RATIO}
    return DoctorSection(name, title, tuple(warnings), (line,), _HEADER, rows, None, figures)
