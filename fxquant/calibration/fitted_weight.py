"""Fit the rows of weights that read one input, from the moments of that input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from fxquant.calibration.erq_rounding import erq_round
from fxquant.calibration.gptq import gptq
from fxquant.calibration.moments import Moments, total
from fxquant.calibration.output_correction import bias_shift, output_factor
from fxquant.calibration.ridge import fit_ridge
from fxquant.calibration.row_clip import clip_rows
from fxquant.config.weight_fit import Correction, Rounding, WeightFit
from fxquant.errors import CalibrationError
from fxquant.numerics.codes import Codes
from fxquant.numerics.float8 import beside_float8, round_float8
from fxquant.observers.base import Observer


@dataclass(frozen=True, eq=False)
class WeightRows:
    """
    Weights below each other, ``(O, K)`` float32, and the grid of each row: `scale`, `qmin` and `qmax`, ``(O, 1)`` each.

    even: whether codes are whole numbers; else those of float8.
    """

    weight: Tensor
    scale: Tensor
    qmin: Tensor
    qmax: Tensor
    even: bool

    @classmethod
    def of(cls, weights: Sequence[Tensor], observers: Sequence[Observer]) -> WeightRows:
        """
        Return the rows of several weights, ``(O, K)`` each, with the scales that their observers give.

        Raises `CalibrationError` where some codes are integers and others float8.
        """
        kinds = {cast(Codes, o.spec).even for o in observers}
        if len(kinds) > 1:
            raise CalibrationError(
                f"node {observers[0].operand!r}: expected weights that read one input and are fitted together to have codes of "
                "one kind, found int8 and e4m3: give these layers one LayerSpec"
            )
        ends = [
            torch.tensor([o.spec.qmin, o.spec.qmax], device=w.device).expand(len(w), 2)
            for w, o in zip(weights, observers, strict=True)
        ]
        scale = torch.cat([observer.calculate_qparams().scale for observer in observers])
        qmin, qmax = torch.cat(ends).float().split(1, dim=1)
        return cls(torch.cat([w.float() for w in weights]), scale[:, None], qmin, qmax, kinds.pop())

    def rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return `weight`, ``(O, n)``, at the nearest values of the grid with steps `scale`."""
        return self.codes(weight / scale).mul_(scale)

    def codes(self, steps: Tensor) -> Tensor:
        """Return the codes nearest to `steps`, ``(O, n)`` in units of the scale."""
        return steps.round_().clamp_(self.qmin, self.qmax) if self.even else round_float8(steps)

    def beside(self, values: Tensor, upwards: Tensor) -> Tensor:
        """Return the next larger value of the grid where `upwards`, else the next smaller one; the same at its ends."""
        if self.even:
            return self.rounded(values + torch.where(upwards, self.scale, -self.scale), self.scale)
        return beside_float8(self.codes(values / self.scale), upwards).mul_(self.scale)


@dataclass(frozen=True, eq=False)
class Found:
    """What was found, float32: a weight on its grid ``(O, K)``, its `scale` and the `shift` of the bias, ``(O,)`` each."""

    weight: Tensor
    scale: Tensor
    shift: Tensor


def fit_rows(rows: WeightRows, parts: Sequence[Moments], options: WeightFit) -> Found:
    """Return what `options` make of the rows; parts: the moments of the input, of parts of the images."""
    moments = total(parts)
    second = moments.second(options.centred)
    wanted = fit_ridge(rows.weight, parts, options.ridge) if options.ridge else rows.weight
    if options.clip:
        rows = replace(rows, scale=clip_rows(wanted, rows.scale, second, rows.rounded))
    codes = rows.codes(_rounded(rows, wanted, second, moments, options) / rows.scale)
    scale = rows.scale
    if options.correction is Correction.AFFINE:
        scale = scale * output_factor(rows.weight, codes * scale, moments)[:, None]
    fitted = codes * scale
    return Found(fitted, scale[:, 0], bias_shift(rows.weight.double(), fitted.double(), moments).float())


def _rounded(rows: WeightRows, wanted: Tensor, second: Tensor, moments: Moments, options: WeightFit) -> Tensor:
    def to_grid(weight: Tensor) -> Tensor:
        return rows.rounded(weight, rows.scale)

    if options.rounding is Rounding.NEAREST:
        return to_grid(wanted)
    if options.rounding is Rounding.ERQ:
        return erq_round(wanted, second, to_grid, rows.beside, options.damping)
    error = moments.cross(options.centred) - second if options.asymmetry else None
    return gptq(wanted, second, to_grid, options.damping, options.act_order, options.block, error, options.asymmetry)
