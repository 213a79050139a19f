"""Which tokens of the calibration images take part in a search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.calibration.sites import Site
from fxquant.graph.inputs import batch_size
from fxquant.graph.meta import known_value


@dataclass(frozen=True, eq=False)
class Sample:
    """
    The rows of one site's operands that take part in a search.

    A row is a token of a linear layer, or in attention one image (or window) with all its tokens. index: the numbers of the
    chosen rows, in order; None for all. tokens, total: how many tokens take part, and how many there are.
    """

    index: Tensor | None
    tokens: int
    total: int

    @classmethod
    def of(cls, site: Site, images: int, max_rows: int | None, generator: torch.Generator) -> Sample:
        """Draw at most `max_rows` tokens of `images` images, at least one row."""
        rows = site.output_rows(site.first, known_value(site.first))
        each = rows.shape[-2] if site.activations else 1
        # The first axis of a product is not always the batch: windows are folded into it.
        inputs = [known_value(n) for n in site.first.graph.nodes if n.op == "placeholder"]
        count = rows.shape[0] * images // batch_size(inputs)
        if max_rows is None or count * each <= max_rows:
            return cls(None, count * each, count * each)
        kept = max(1, max_rows // each)
        index = torch.randperm(count, generator=generator)[:kept].sort().values
        return cls(index, kept * each, count * each)

    def take(self, parts: Iterable[Tensor], start: int = 0) -> Tensor:
        """Return the chosen rows of `parts`, consecutive pieces of all rows from row `start` on, as one tensor."""
        taken = []
        for part in parts:
            stop = start + part.shape[0]
            if self.index is None:
                taken.append(part)
            else:
                own = self.index[(self.index >= start) & (self.index < stop)] - start
                taken.append(part[own.to(part.device)])
            start = stop
        return torch.cat(taken)
