"""Which products belong to the decoder of a detector, found from the data flow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.dataflow import PRODUCTS, after, flows_to
from fxquant.graph.meta import value_of

_ATTENTION = (torch.matmul, F.scaled_dot_product_attention)
_TOPK = (torch.topk, "topk", torch.ops.aten.topk.default)
_SAMPLE = (F.grid_sample, torch.grid_sampler, torch.ops.aten.grid_sampler.default)


def decoder_products(gm: fx.GraphModule) -> frozenset[fx.Node]:
    """
    Return the matrix products that are computed from queries which look into an image.

    Such queries are several learned rows that attend to what was computed from the image (DETR), or rows of it that were
    selected by their scores and then sample it at places of their own (RT-DETR). One learned row, such as the token or the
    probe that a classifier reads, is none. Shapes have to be known for the first kind.
    """
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    image = after(inputs).union(inputs)
    learned = [n for n in gm.graph.nodes if n.target in _ATTENTION and _reads_image_by_learned_queries(n, image)]
    selected = after([n for n in gm.graph.nodes if n.target in _TOPK])
    sampled = any(n.target in _SAMPLE and n.args[1] in selected for n in gm.graph.nodes if len(n.args) > 1)
    found = after(learned) | set(learned) | (selected if sampled else set())
    return frozenset(n for n in found if n.target in PRODUCTS)


def _reads_image_by_learned_queries(node: fx.Node, image: set[fx.Node]) -> bool:
    query, key = node.args[:2]
    known = value_of(query)
    several = known is not None and known.dim() > 1 and known.shape[-2] > 1
    scores = node.target is F.scaled_dot_product_attention or flows_to(node, F.softmax)
    return bool(several and scores and query not in image and key in image)
