"""Run a graph node by node, and stop before each node with what is known there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.reconstruction.evaluator import Evaluator


def steps(
    evaluator: Evaluator, graph: fx.Graph, inputs: Sequence[Tensor]
) -> Iterator[tuple[fx.Node, dict[fx.Node, Any]]]:
    """
    Yield each node with the values that it and later nodes read, just before it is run.

    From these all that follows can be computed once more with something changed: ``evaluator.values((output,), known)`` runs
    no more than the rest of the graph. The caller leaves `evaluator` as it was before it asks for the next node.
    """
    nodes = list(graph.nodes)
    last = {used: node for node in nodes for used in node.all_input_nodes}
    known: dict[fx.Node, Any] = dict(zip((n for n in nodes if n.op == "placeholder"), inputs, strict=True))
    for node in nodes:
        if node.op != "placeholder":
            yield node, known
            with torch.no_grad():  # not around the loop, whose body is the caller's
                (known[node],) = evaluator.values((node,), known)
        for used in (node, *node.all_input_nodes):
            if last.get(used, node) is node:
                known.pop(used, None)


def output_of(graph: fx.Graph) -> fx.Node:
    """Return the node that returns what a graph gives."""
    found: fx.Node = graph.output_node()
    return found
