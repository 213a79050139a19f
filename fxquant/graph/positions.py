"""Products that work on positions, which codes are too coarse for."""

from __future__ import annotations

import torch
from torch import fx

from fxquant.graph.dataflow import ancestors, downstream, is_elementwise, moves_values

_PERIODIC = (torch.sin, torch.cos, torch.polar, torch.ops.aten.polar.default, "sin", "cos")
_RANGES = (torch.arange, torch.linspace, torch.meshgrid, torch.cumsum, "cumsum")


def works_on_positions(product: fx.Node) -> str | None:
    """
    Return why the operands of a product are phases or positions, which stay float; None where they are not.

    A phase of many turns loses its meaning where it is rounded to one of 256 codes. What is computed from ranges of numbers
    alone, and from no input, is a position.
    """
    if any(user.target in _PERIODIC for user in downstream(product)):
        return "computes phases of sine and cosine"
    sources = ancestors(product)
    ranges = any(n.target in _RANGES for n in sources)
    return "depends on positions alone" if ranges and not any(n.op == "placeholder" for n in sources) else None


def is_phase(node: fx.Node) -> bool:
    """Say whether all that reads `node` are sines and cosines, behind moves and elementwise operators."""
    return bool(node.users) and all(
        user.target in _PERIODIC or ((moves_values(user) or is_elementwise(user)) and is_phase(user))
        for user in node.users
    )
