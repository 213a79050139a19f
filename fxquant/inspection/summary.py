"""A graph in a few lines: what runs in each block; for terminals and notebooks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from torch import fx

from fxquant.graph.meta import model_dtype
from fxquant.graph.stages import stage_of
from fxquant.inspection.graph_rows import state_of
from fxquant.inspection.html import fill
from fxquant.inspection.report import kinds_of_codes, product_reports

# What people read for a state of `fxquant.inspection.graph_rows.GraphRow`.
STATES = {
    **{name: name for name in ("int8", "float8", "observed", "float", "opaque")},
    "token": "int8 per token",
    "fake": "simulated",
}


@dataclass(frozen=True)
class BlockSummary:
    """name: of one block, or of the first and the last of several alike. states: how many products each has in which state."""

    name: str
    states: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return ", ".join(f"{count} {STATES[state]}" for state, count in self.states)


@dataclass(frozen=True)
class GraphSummary:
    """
    What a graph is, in a few lines.

    title: the class of the model, its stage and its size. coverage: share of multiply-accumulates on codes, 0..1. codes: of
    what kind these are.
    """

    title: str
    coverage: float
    products: int
    dtype: str
    blocks: tuple[BlockSummary, ...]
    codes: str

    def __str__(self) -> str:
        width = max((len(block.name) for block in self.blocks), default=0)
        lines = [f"  {block.name.ljust(width)}  {block}" for block in self.blocks]
        share = f"{self.coverage:.1%} of multiply-accumulates on {self.codes}"
        head = f"{self.title}: {self.products} products, {share}, rest {self.dtype}"
        hint = "  print(gm.code), fxquant.report(gm) and fxquant.inspect(gm) say more"
        return "\n".join([head, *lines, hint])

    def html(self) -> str:
        """Return it as a fragment for a notebook."""
        return fill("summary.html.jinja", summary=self, states=STATES)


def summarise(gm: fx.GraphModule, backend: str, kind: str = "") -> GraphSummary:
    """Return the summary of a graph; backend: see `fxquant.compile`. kind: what to call it in place of its stage."""
    stage = stage_of(gm)
    reports = product_reports(gm, backend).values()
    total = sum(r.macs or 0 for r in reports)
    lowered = sum(r.macs or 0 for r in reports if r.codes)
    title = f"{type(gm).__name__}, {kind or (stage.value if stage else 'unknown')}, {len(gm.graph.nodes)} nodes"
    found = [(_block(r.module), state_of(r, stage)) for r in reports]
    blocks = tuple(_joined((name, [s for _, s in same]) for name, same in groupby(found, key=lambda each: each[0])))
    dtype = str(model_dtype(gm)).removeprefix("torch.")
    return GraphSummary(title, lowered / total if total else 0.0, len(reports), dtype, blocks, kinds_of_codes(reports))


def _block(module: str) -> str:
    """Return the path down to the last number in it, which numbers blocks, or the first part where there is none."""
    numbered = re.match(r"(.*\.\d+)(\.|$)", module)
    return numbered[1] if numbered else module.partition(".")[0]


def _joined(blocks: Iterable[tuple[str, list[str]]]) -> Iterable[BlockSummary]:
    """Yield a summary for each run of blocks that differ in their number alone."""
    counted = [(name, tuple(Counter(states).items())) for name, states in blocks]
    for (_, states), run in groupby(counted, key=lambda each: (each[0].rpartition(".")[0] or each[0], each[1])):
        names = [name for name, _ in run]
        last = names[-1].rpartition(".")[2]
        yield BlockSummary(names[0] if len(names) == 1 else f"{names[0]} to {last}", states)
