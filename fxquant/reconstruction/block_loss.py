"""The loss of a block: how far its output, and the feature of the model that it leads to, are from the float model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

FLOOR = 1e-12  # of what losses are divided by: a block without a rounding error has none


@dataclass(frozen=True)
class Errors:
    """Mean squared errors, 0-dim: local of the output of a block, remote of the feature; None where it comes before."""

    local: Tensor
    remote: Tensor | None

    @staticmethod
    def of(found: Sequence[Tensor], wanted: Sequence[Tensor], count: int) -> Errors:
        """Return the errors of values whose first `count` are outputs of the block and the others features."""
        errors = [(f.float() - w.float()).square().mean() for f, w in zip(found, wanted, strict=True)]
        local, remote = errors[:count], errors[count:]
        return Errors(sum(local[1:], local[0]), sum(remote[1:], remote[0]) if remote else None)


@dataclass(frozen=True)
class BlockLoss:
    """
    ``remote / G0 + weight * local / L0``: the global feature and local loss of GLF-Q.

    first: the errors of the first batch, G0 and L0, which stay what they are.
    """

    first: Errors
    weight: float

    def of(self, errors: Errors) -> Tensor:
        """Return the loss, 0-dim, with the gradients of the `errors`."""
        local = self.weight * errors.local / self.first.local.detach().clamp(min=FLOOR)
        if errors.remote is None or self.first.remote is None:
            return local
        return errors.remote / self.first.remote.detach().clamp(min=FLOOR) + local
