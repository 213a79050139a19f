"""Turn queries and keys, and values, within each head of attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attention_heads import HeadPair, head_pairs
from fxquant.graph.channels import name_of
from fxquant.graph.fold_tensors import change_columns, change_rows
from fxquant.graph.rewrite import blame, edit
from fxquant.numerics.hadamard import random_rotation


@dataclass(frozen=True)
class RotateHeads:
    """
    Multiply the queries and keys of each head by one random orthogonal matrix, and the values by another, ``(D, D)`` each.

    Before:  q, k, v = linear(x, w, b); linear(attention(q, k, v), u, c)
    Becomes: the same, w, b = R.T @ w, R.T @ b in the rows of each head, and u = u @ R in its columns

    R is a Hadamard matrix with random signs. Queries and keys stay where a norm or a rotation by position reads them, and
    values where anything but a linear layer reads the result. seed: of the signs. Raises `UnsupportedGraphError` where all of
    them stay, and for heads of a width that no Hadamard matrix is known for (QuaRot).
    """

    seed: int = 0

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Rotate the heads of every product of attention."""
        return edit(gm, self._rotate)

    def _rotate(self, gm: fx.GraphModule) -> bool:
        generator, pairs = torch.Generator().manual_seed(self.seed), list(head_pairs(gm.graph))
        if not pairs:
            raise UnsupportedGraphError(
                "folds: rotate_heads expected linear layers right before and behind products of attention, found none without "
                "a norm, a rotation by position or another operator in between: leave it out"
            )
        for pair in pairs:
            rotation = random_rotation(pair.width, generator)
            if rotation is None:
                raise UnsupportedGraphError(
                    f"folds: rotate_heads needs a Hadamard matrix as wide as a head, and knows none for width {pair.width} "
                    f"of {name_of(pair.product)}: leave it out"
                )
            with blame("rotate_heads", pair.product):
                _rotate_pair(pair, rotation)
        return True


def _rotate_pair(pair: HeadPair, rotation: Tensor) -> None:
    for side in pair.sides:
        change_rows(side.layer, lambda rows, places=side.rows: _turned(rows, places, rotation))  # type: ignore[misc]
    if pair.columns is not None:
        layer, places = pair.columns
        change_columns(layer, lambda weight: _turned(weight, places, rotation))


def _turned(rows: Tensor, places: Tensor, rotation: Tensor) -> Tensor:
    """Return row vectors ``(.., C)`` with those of their channels at `places` ``(H, D)`` turned in each head."""
    turned, places = rows.clone(), places.to(rows.device)
    turned[..., places] = rows[..., places] @ rotation.to(rows.device)
    return turned
