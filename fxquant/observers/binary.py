"""Weights of one bit: a sign, and one size for all (XNOR-Net, Rastegari et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.codes import Codes
from fxquant.observers.base import Observer, ObserverOptions, QParams
from fxquant.observers.full_precision import full_precision
from fxquant.observers.take_in import take_in


@dataclass(frozen=True)
class BinaryWeightStep(ObserverOptions):
    """A weight is trained as ``sign(w) mean|w|``; its codes are -1 and 1, two bits of them narrow."""

    trained = True

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` unless the codes of `spec` are -1, 0 and 1."""
        if (spec.qmin, spec.qmax) != (-1, 1) or not spec.symmetric or spec.granularity.axis not in (None, 0):
            raise ConfigError(
                "a weight of one bit needs TensorSpec(2, signed=True, symmetric=True, narrow=True), with one scale or scales "
                f"along its rows, got {spec!r}"
            )

    def build(self, spec: Codes, name: str) -> BinaryWeightQuantizer:
        """Return a `BinaryWeightQuantizer`."""
        return BinaryWeightQuantizer(spec, name)


class BinaryWeightQuantizer(Observer):
    """Return a weight as its signs times its mean size, of each row group; gradients pass where a value lies in [-1, 1]."""

    size: Tensor
    trained = True

    def __init__(self, spec: Codes, operand: str) -> None:
        super().__init__(spec, operand)
        self.register_buffer("size", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return the binary weight, of the shape of `x`, float32."""
        if not self.frozen:
            take_in(self, x)
        with full_precision(x):
            rows = self.rows(x.float())  # (G, n)
            size = rows.detach().abs().mean(dim=1, keepdim=True)
            if self.training:
                self.size = size.flatten()
            result: Tensor = _Binarise.apply(rows, size)
            return result.view_as(x)

    def observe(self, rows: Tensor) -> None:
        """Take in the size of the weight."""
        self.checked_aminmax(rows)
        self.size = rows.float().abs().mean(dim=1)
        self.frozen = True

    def initial_qparams(self) -> QParams:
        """Return the present size as the scale."""
        return QParams(self.size.reshape(()) if self.axis is None else self.size, None, self.axis)

    @property
    def initial_bits(self) -> int:
        """The width of a sign; that of the spec has a third code, which no weight has."""
        return 1

    def trained_bits(self) -> float:
        """Return 1: a sign."""
        return float(self.initial_bits)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the two values, ``(G,)`` each."""
        return -self.size, self.size

    def settled_weight(self, weight: Tensor) -> Tensor | None:
        """Return the two values that `weight` stands for, and take in its size; None where it is those two already."""
        sizes = self.rows(weight.detach()).abs()
        if torch.equal(sizes, sizes[:, :1].expand_as(sizes)):
            return None
        with torch.no_grad():
            self.size = self.rows(weight.float()).abs().mean(dim=1)
            result: Tensor = self(weight)
            return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.frozen = self.calibrated


class _Binarise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign() * size

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1), None
