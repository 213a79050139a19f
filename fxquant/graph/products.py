"""What a matrix product and its operands are for, found from the data flow."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import fx

from fxquant.config.operands import Role
from fxquant.graph import dataflow
from fxquant.graph.activation_functions import activation_of, is_gated
from fxquant.graph.meta import Product
from fxquant.graph.norms import norm_of
from fxquant.observers.adalog import AdaLogGELU
from fxquant.observers.operand_spec import OperandSpec
from fxquant.observers.twin import TwinGELU

# Products of two activations: those of attention, and any other.
OF_ACTIVATIONS = (Product.QK, Product.PV, Product.ATTENTION, Product.MATMUL)


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
    return Product.PV if dataflow.mixes(node.args[0], F.softmax) else Product.MATMUL


def unique_label(product: Product, module: str, labels: set[str]) -> str:
    """Return the label of a product of `module`, none of those in `labels`, and add it to them."""
    # Only attention puts several products into one module; the rest are known by their module alone.
    first = label = f"{module}.{product.value}" if product in OF_ACTIVATIONS else module
    count = 1
    while label in labels:
        count += 1
        label = f"{first}_{count}"
    labels.add(label)
    return label


def operand_role(value: object) -> Role:
    """Return the role of an activation, from the operators that computed it."""
    source = dataflow.origin(value)
    if source is not None and source.target is F.softmax:
        return Role.SOFTMAX
    if norm_of(value) is not None:
        return Role.NORM
    if activation_of(value) is not None:
        return Role.GELU
    return Role.GATED if is_gated(value) else Role.ACTIVATION


def fitted(spec: OperandSpec | None, value: object) -> OperandSpec | None:
    """Return a `spec` for the output of GELU with the least value of the function that gives `value`, any other as it is."""
    if not isinstance(spec, TwinGELU | AdaLogGELU):
        return spec
    found = activation_of(value)
    return spec if found is None else replace(spec, minimum=found.minimum)
