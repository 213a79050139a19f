"""A copy of a graph that also returns the output of its attention blocks: probabilities times values."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph import dataflow
from fxquant.graph.meta import Product, known_value, module_path, value_of
from fxquant.graph.products import product_of
from fxquant.graph.shapes import propagate_shapes

_CATS = (torch.cat, torch.concat)


@dataclass(frozen=True)
class ContextSite:
    """
    One attention block.

    name: the name of its module.
    prefix: the number of leading tokens that are no patches and are dropped.
    tokens: the number of tokens that stay.
    windows: the number of windows of an image in which attention is computed separately.
    """

    name: str
    prefix: int
    tokens: int
    windows: int


@dataclass(frozen=True, eq=False)
class ContextGraph:
    """
    A graph that returns the outputs of its attention blocks.

    gm: maps images ``(B, 3, H, W)`` to logits ``(B, classes)`` and one context per site; its weights are frozen.
    """

    gm: fx.GraphModule
    sites: tuple[ContextSite, ...]
    classes: int

    @property
    def windowed(self) -> bool:
        """Whether any attention is computed in windows."""
        return any(site.windows > 1 for site in self.sites)


def expose_contexts(gm: fx.GraphModule, images: Tensor, published: bool = False) -> ContextGraph:
    """
    Return a copy of a FLOAT graph whose output is ``(logits, context, ...)``. It shares its weights with `gm`, frozen.

    Products of probabilities and values are found from the data flow, fused or not. Tokens that come from a parameter, such
    as the class token, are dropped if a concatenation puts them before the patches. Attention over fewer than two patches
    is left out.

    images: their shape and device matter, not their values.
    published: drop the first token instead, whatever it is.

    Raises `InputError` where the model does not take the images or gives no logits, `UnsupportedGraphError` where it has no
    attention.
    """
    frozen = _frozen_copy(gm)
    propagate_shapes(frozen, [images])
    batch = images.shape[0]
    logits = _logits(frozen.graph, batch)
    found = {node: _site(node, batch, published) for node in frozen.graph.nodes if _is_context(node, batch)}
    sites = {node: site for node, site in found.items() if site.tokens >= 2}
    if not sites:
        raise UnsupportedGraphError(
            "image synthesis needs attention, a product of softmax probabilities and values over at least two patches; this "
            "model has none. fxquant.synthesis.gaussian_images gives calibration images for any model"
        )
    output = next(n for n in frozen.graph.nodes if n.op == "output")
    output.args = ((logits, *sites),)
    frozen.graph.eliminate_dead_code()
    frozen.graph.lint()
    frozen.recompile()
    return ContextGraph(frozen, tuple(sites.values()), int(known_value(logits).shape[1]))


def _frozen_copy(gm: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose parameters share the memory of the original's and need no gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in gm.parameters()}
    memo |= {id(b): b.detach() for b in gm.buffers()}
    return copy.deepcopy(gm, memo)


def _logits(graph: fx.Graph, batch: int) -> fx.Node:
    leaves = [value for _, value in dataflow.returned(graph)]
    shapes = [tuple(v.shape) if (v := value_of(leaf)) is not None else None for leaf in leaves]
    heads = [n for n in graph.nodes if n.target in dataflow.PRODUCTS and dataflow.reaches_output(n)]
    if len(leaves) != 1 or shapes[0] is None or len(shapes[0]) != 2 or shapes[0][0] != batch or not heads:
        found = ", ".join(map(str, shapes)) or "nothing"
        features = ", which are features: nothing but norms and pooling comes after the last block" if not heads else ""
        raise InputError(
            f"image synthesis needs a classifier, whose output is one tensor of logits ({batch}, classes); this model gives "
            f"{found}{features}. Create the model with its head, for example without num_classes=0"
        )
    return leaves[0]


def _is_context(node: fx.Node, batch: int) -> bool:
    if node.target not in (torch.matmul, F.scaled_dot_product_attention):
        return False
    value = value_of(node)
    images = value is not None and value.dim() >= 3 and value.shape[0] % batch == 0
    product = product_of(node) if images else None
    return product in (Product.PV, Product.ATTENTION) or (product is Product.MATMUL and _mixes_probabilities(node))


def _mixes_probabilities(node: fx.Node) -> bool:
    """Say whether a linear layer over heads, or a gate, mixed the first operand's probabilities after the softmax."""
    stack, seen = [node.args[0]], set[object]()
    while stack:
        source = stack.pop()
        if not isinstance(source, fx.Node) or source in seen:
            continue
        seen.add(source)
        if source.target is F.softmax:
            return True
        if dataflow.moves_values(source) or source.target is F.linear:
            stack.append(source.args[0])
        elif dataflow.is_elementwise(source):
            stack.extend(source.all_input_nodes)
    return False


def _site(node: fx.Node, batch: int, published: bool) -> ContextSite:
    shape = known_value(node).shape
    prefix = 1 if published else _prefix_tokens(node)
    windows = shape[0] // batch * shape[2:-2].numel()
    return ContextSite(module_path(node) or node.name, prefix, int(shape[-2]) - prefix, int(windows))


def _prefix_tokens(context: fx.Node) -> int:
    """Return how many tokens of parameters come before the patches that `context` is computed from."""
    tokens = known_value(context).shape[-2]
    stack, seen, found = list(context.all_input_nodes), set[fx.Node](), 0
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack.extend(node.all_input_nodes)
        if node.target in _CATS and _joins_tokens(node, tokens):
            found = max(found, _leading_parameters(node))
    return found


def _joins_tokens(cat: fx.Node, tokens: int) -> bool:
    value = value_of(cat)
    axis = cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
    return value is not None and value.dim() == 3 and axis in (1, -2) and value.shape[1] == tokens


def _leading_parameters(cat: fx.Node) -> int:
    """Return the number of tokens in the first operands of a concatenation, as long as these come from parameters."""
    operands = cat.args[0] if cat.args else cat.kwargs["tensors"]
    count = 0
    for operand in operands:  # type: ignore[union-attr]
        if not dataflow.is_parameter(operand):
            break
        count += int(known_value(operand).shape[1])
    return count
