"""Keep values that mean nothing from becoming plausible results: codes have no NaN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph import dataflow
from fxquant.graph.calls import arguments_of, call
from fxquant.graph.inputs import has_batch
from fxquant.graph.meta import copy_value, known_value, provenance, set_value, value_of
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.input_recorder import SeenInput
from fxquant.ops import check_input, check_values, mark_invalid


@dataclass(frozen=True)
class GuardInputs:
    """
    Look at the values of each input, and make NaN of the results of images that are not finite.

    Before:  x = check_input(image, (None, 3, 224, 224), "x"); ...; return logits
    Becomes: x = check_input(image, (None, 3, 224, 224), "x")
             invalid = check_values(x, -2.1, 2.6, "x", False, True)   # (B,): 0, or NaN for an image that is not finite
             ...
             return mark_invalid(logits, invalid, True)               # logits - invalid[:, None]

    The two numbers are the range that calibration saw. Masks and inputs of whole numbers pass unseen. Where the model returns
    whole numbers alone, which cannot be NaN, images that are not finite are refused.
    """

    seen: tuple[SeenInput, ...]

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Run the pass."""
        return edit(gm, self._guard)

    def _guard(self, gm: fx.GraphModule) -> bool:
        # The last check of a name: exported graphs have one at their entrance as well.
        checks = {arguments_of(n)["name"]: n for n in gm.graph.nodes if n.target is check_input}
        inputs = [known_value(checks[each.name]) for each in self.seen]
        tensors = [(reader, n) for reader, n in dataflow.returned(gm.graph) if value_of(n) is not None]
        results = [(reader, n) for reader, n in tensors if known_value(n).is_floating_point()]
        refuse, results = not results, results or tensors
        for found, value in zip(self.seen, inputs, strict=True):
            node = checks[found.name]
            if not value.is_floating_point() or found.infinite:
                continue
            with blame("guard_inputs", node):
                batched = has_batch(value, inputs)
                invalid = _check(gm.graph, node, found, batched, found.strict or refuse)
                results = [
                    (reader, _mark(gm.graph, reader, n, invalid, batched and has_batch(value_of(n), inputs)))
                    for reader, n in results
                ]
        return bool(self.seen)


def _check(graph: fx.Graph, node: fx.Node, seen: SeenInput, batched: bool, refuse: bool) -> fx.Node:
    low, high = seen.range or (None, None)
    arguments = {"x": node, "low": low, "high": high, "name": seen.name, "refuse": refuse, "batched": batched}
    with graph.inserting_after(node):
        checked = call(graph, check_values, arguments)
    rows: Tensor = known_value(node)
    set_value(checked, rows.new_empty(rows.shape[:1] if batched else (), dtype=torch.float32))
    provenance(checked, node)
    return checked


def _mark(graph: fx.Graph, reader: fx.Node, node: fx.Node, invalid: fx.Node, batched: bool) -> fx.Node:
    with graph.inserting_before(reader):
        marked = call(graph, mark_invalid, {"y": node, "invalid": invalid, "batched": batched})
    provenance(marked, node)
    copy_value(marked, node)
    reader.replace_input_with(node, marked)
    return marked
