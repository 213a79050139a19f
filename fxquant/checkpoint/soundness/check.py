"""All that a loaded graph is checked for, before it is handed out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from fxquant.checkpoint.soundness.declared_inputs import declared_inputs
from fxquant.checkpoint.soundness.index_ranges import check_indices
from fxquant.checkpoint.soundness.shape_run import UNKNOWN, run_on_shapes
from fxquant.checkpoint.soundness.statistics import check_statistics
from fxquant.checkpoint.soundness.unknown_numbers import check_unknown_numbers
from fxquant.errors import CheckpointError
from fxquant.graph.meta import any_value_of, has_value


def check_sound(gm: fx.GraphModule) -> None:
    """Raise `CheckpointError` naming a node of `gm` that could not run, whose constants misfit, or that costs too much."""
    inputs = declared_inputs(gm)
    if inputs is None:
        check_unknown_numbers(gm.graph)
    values = run_on_shapes(gm, inputs)
    check_indices(gm, values)
    check_statistics(gm, values)
    for node, value in values.items():
        if value is not UNKNOWN and has_value(node):
            _compare(node, value, any_value_of(node))


def _compare(node: fx.Node, found: Any, saved: Any) -> None:
    """Raise `CheckpointError` where the value that is known of a node is not of the shape and dtype that it has."""
    (leaves, _), (others, _) = tree_flatten(found), tree_flatten(saved)
    for leaf, other in zip(leaves, others, strict=False):
        if not isinstance(leaf, Tensor) or not isinstance(other, Tensor):
            continue
        if leaf.shape != other.shape or leaf.dtype is not other.dtype:
            said, found = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (other, leaf))
            raise CheckpointError(f"node {node.name!r}: its value is said to be {said}, and is {found}")
