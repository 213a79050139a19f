"""How the weights of each output channel are distributed, as a picture small enough for any model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.lowering.quantized import factors

_COLUMNS, _BINS = 96, 33


@dataclass(frozen=True)
class WeightPicture:
    """
    A histogram for each group of neighbouring output channels.

    channels: output channels in all, shared out over the columns. limit: values reach from ``-limit`` to it. picture:
    ``(columns, bins)`` uint8, the log of counts; its largest is 255. integer: the values are codes.
    """

    channels: int
    limit: float
    picture: Tensor
    integer: bool


def weight_picture(product: fx.Node) -> WeightPicture | None:
    """Return the picture of the constant weight of a linear layer or a convolution; None where it has none, or it is packed."""
    weight = factors(product)[1] if len(factors(product)) > 1 else None
    while isinstance(weight, fx.Node) and weight.op != "get_attr" and len(weight.all_input_nodes) >= 1:
        weight = weight.all_input_nodes[0] if all(n.op == "get_attr" for n in weight.all_input_nodes) else None
    if not isinstance(weight, fx.Node) or tensor_of(weight).dim() < 2:
        return None
    stored = tensor_of(weight).detach()
    return _picture(stored.flatten(1).float().cpu(), integer=not stored.is_floating_point())


def _picture(rows: Tensor, integer: bool) -> WeightPicture:
    limit = max(float(rows.abs().max()), 1e-12)
    groups = torch.tensor_split(rows, min(_COLUMNS, len(rows)))
    counts = torch.stack([torch.histc(group, _BINS, -limit, limit) / group.numel() for group in groups])
    shades = torch.log1p(counts * rows.shape[1])
    return WeightPicture(len(rows), limit, (shades * (255 / shades.max())).to(torch.uint8), integer)
