"""What a matrix product and its operands are for, found from the data flow."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx

from fxquant.config.operands import Role
from fxquant.graph import dataflow
from fxquant.graph.meta import Product

_SOURCES: dict[Any, Role] = {F.layer_norm: Role.NORM, F.gelu: Role.GELU, F.softmax: Role.SOFTMAX}


def product_of(node: fx.Node) -> Product:
    """Return what a product is for, from the data flow."""
    if node.target is F.scaled_dot_product_attention:
        return Product.ATTENTION
    if node.target is F.conv2d:
        return Product.PATCH_EMBED if dataflow.reads_input(node.args[0]) else Product.CONV
    if node.target is F.linear:
        return Product.HEAD if dataflow.reaches_output(node) else Product.LINEAR
    if dataflow.flows_to(node, F.softmax):
        return Product.QK
    source = dataflow.origin(node.args[0])
    return Product.PV if source is not None and source.target is F.softmax else Product.MATMUL


def operand_role(value: object) -> Role:
    """Return the role of an activation, from the operator that computed it."""
    source = dataflow.origin(value)
    return Role.ACTIVATION if source is None else _SOURCES.get(source.target, Role.ACTIVATION)
