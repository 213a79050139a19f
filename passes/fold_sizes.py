"""Write sizes that never change as numbers, and drop what they make pointless."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of
from fxquant.graph.rewrite import edit
from fxquant.graph.shapes import Sizes, sizes_of
from fxquant.ops import check_input

_RESHAPES = ("reshape", "view")


def fold_sizes(gm: fx.GraphModule) -> PassResult:
    """
    Replace every size that the input's checked shape decides by its value, and the batch size by that of the input.

    Before:  n = x.shape[1]; pad = F.pad(x, (0, 0, 0, (7 - n % 7) % 7)); w = pad.view(x.shape[0] * 8, 7, n // 8, C)
    Becomes: batch = check_input.size(0); w = x.view(-1, 7, 7, 96)

    A padding by nothing, a slice of everything and an assertion that holds are dropped. Graphs whose shapes are unknown stay as
    they are.
    """

    def change(module: fx.GraphModule) -> bool:
        sizes = sizes_of(module)
        if sizes is None:
            return False
        modified = _write_batch(module.graph, sizes)
        for node in module.graph.nodes:
            modified |= _write_numbers(node, sizes)
        for node in list(module.graph.nodes):
            modified |= _drop(node, sizes)
        return modified

    return edit(gm, change)


def _write_batch(graph: fx.Graph, sizes: Sizes) -> bool:
    """Let every reader of a size that is the batch read the input's own."""
    same = [node for node in sizes.varying if sizes.varying[node] == sizes.batches and node.users]
    # A number given as an input has no axis.
    checked = next((n for n in graph.nodes if n.target is check_input and arguments_of(n)["shape"]), None)
    if checked is None or not same or (len(same) == 1 and _is_batch(same[0], checked)):
        return False
    with graph.inserting_after(checked):
        batch = graph.call_method("size", (checked, 0))
    for node in same:
        node.replace_all_uses_with(batch)
    return True


def _is_batch(node: fx.Node, checked: fx.Node) -> bool:
    return node.target == "size" and node.args == (checked, 0)


def _write_numbers(node: fx.Node, sizes: Sizes) -> bool:
    if node.op not in ("call_function", "call_method") or node in sizes.constant:
        return False
    before = node.args, node.kwargs
    spelt_out = len(sizes.shapes.get(node, ())) == len(node.args) - 1 and all(
        isinstance(a, int | fx.Node) for a in node.args
    )
    if node.target in _RESHAPES and spelt_out:
        node.args = (node.args[0], *_reshaped(node, sizes))
    node.args = map_arg(node.args, lambda n: sizes.constant.get(n, n))
    node.kwargs = map_arg(node.kwargs, lambda n: sizes.constant.get(n, n))
    return (node.args, node.kwargs) != before


def _reshaped(node: fx.Node, sizes: Sizes) -> list[Any]:
    """Return the new shape in numbers as far as they are known; one size that is not the batch is left to be computed."""
    shape: list[Any] = list(node.args[1:])
    known = sizes.shapes[node]
    shape = [given if size is None else size for given, size in zip(shape, known, strict=True)]
    unknown = [i for i, given in enumerate(shape) if isinstance(given, fx.Node)]
    computed = [i for i in unknown if sizes.varying.get(shape[i]) not in (None, sizes.batches)]
    if len(computed) == len(unknown) == 1 and -1 not in shape:
        shape[computed[0]] = -1
    return shape


def _drop(node: fx.Node, sizes: Sizes) -> bool:
    if node.target is torch._assert and node.args[0] is True:
        node.graph.erase_node(node)
        return True
    if not (node.target is F.pad and _nothing(node.args[1:2])) and not _takes_everything(node, sizes):
        return False
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    node.graph.erase_node(node)
    return True


def _nothing(padding: tuple[Any, ...]) -> bool:
    return len(padding) == 1 and all(isinstance(n, int) and n == 0 for n in padding[0])


def _takes_everything(node: fx.Node, sizes: Sizes) -> bool:
    if node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return False
    source, index = node.args[0], node.args[1]
    shape = sizes.shapes.get(source) if isinstance(source, fx.Node) else None
    if shape is None or len(index) > len(shape):
        return False
    whole = [isinstance(i, slice) and i.start in (None, 0) and i.step in (None, 1) for i in index]
    # An axis of varying size is None, which no end of a slice equals.
    ends = [i.stop is None or i.stop == size for i, size in zip(index, shape, strict=False) if isinstance(i, slice)]
    return all(whole) and all(ends)
