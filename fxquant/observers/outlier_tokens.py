"""What observes an operand that has a scale per token only where some of its tokens are outliers."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from fxquant.numerics.arithmetic import EPS, affine_qparams, symmetric_scale
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import Granularity, OutlierTokens, PerTensor, PerToken
from fxquant.observers.base import ObservedSpec, Summary
from fxquant.observers.minmax import MinMaxObserver


class OutlierTokensObserver(MinMaxObserver):
    """
    Keep minimum and maximum of the values ``(..., C)``, and how the range of the widest token compares with the others.

    The range of a token is measured by the scale that it would have. widest: ``(1,)``, the largest one. medians: the median of
    each batch, as many as batches. Tokens of no range, such as padding, lose nothing by any scale: no median counts them.
    """

    widest: Tensor
    medians: Tensor

    def __init__(self, spec: ObservedSpec, operand: str) -> None:
        super().__init__(spec, operand)
        self.register_buffer("widest", torch.zeros(0))
        self.register_buffer("medians", torch.zeros(0))

    def rows(self, x: Tensor) -> Tensor:
        """View `x` ``(..., C)`` as ``(T, C)``: one row for each token."""
        return x.reshape(-1, x.shape[-1])

    def summarise(self, rows: Tensor) -> Summary:
        """Return minimum, maximum and largest scale of a token, ``(1,)`` each, and the median scale, ``(0,)`` for none."""
        low, high = super().summarise(rows)
        spec = cast(Codes, self.spec)
        if spec.symmetric:
            scales = symmetric_scale(low, high, spec.qmin, spec.qmax)
        else:
            scales, _ = affine_qparams(low.clamp(max=0), high.clamp(min=0), spec.qmin, spec.qmax)
        wide = scales[scales > EPS]
        median = wide.median().reshape(1) if wide.numel() else wide
        return low.amin(0, keepdim=True), high.amax(0, keepdim=True), scales.amax(0, keepdim=True), median

    def absorb(self, *summary: Tensor) -> None:
        """Add a batch to the range and to what is known of the tokens."""
        minimum, maximum, widest, median = summary
        super().absorb(minimum, maximum)
        self.widest = torch.maximum(self.widest, widest) if self.calibrated else widest
        self.medians = torch.cat([self.medians, median])

    @property
    def token_ratio(self) -> float:
        """How many times the median token's range the widest token has; 1 where no token has a range."""
        return float(self.widest / self.medians.median()) if self.medians.numel() else 1.0

    @property
    def granularity(self) -> Granularity:
        """`PerToken` where the statistics show outliers, else `PerTensor`."""
        asked = self.spec.granularity
        if not isinstance(asked, OutlierTokens):  # settled
            return asked
        return PerToken() if self.token_ratio > asked.ratio else PerTensor()

    def settle(self) -> bool:
        """Let `spec` say which of the two it is; say whether it did not before."""
        before, self.spec = self.spec, replace(cast(Codes, self.spec), granularity=self.granularity)
        return self.spec != before
