"""How long each node of a graph takes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx


def time_nodes(gm: fx.GraphModule, inputs: Sequence[Tensor], rounds: int = 5) -> dict[fx.Node, float]:
    """
    Return the median seconds of each node that computes something, of `rounds` runs after a first one that does not count.

    An accelerator is synchronised after each node.
    """
    clock = _Clock(gm)
    with torch.no_grad():
        for _ in range(rounds + 1):
            clock.run(*inputs)
    return {node: statistics.median(measured[1:]) for node, measured in clock.seconds.items()}


class _Clock(fx.Interpreter):
    """Run a graph and store the seconds of each node that computes something."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.seconds: dict[fx.Node, list[float]] = defaultdict(list)

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        result = super().run_node(n)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        if n.op.startswith("call_"):
            self.seconds[n].append(time.perf_counter() - start)
        return result
