"""What quantising each operand alone costs, estimated for all of them from a few backward passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxquant.distributed import gather_objects, shard
from fxquant.graph.inputs import batch_size
from fxquant.observers.base import Observer
from fxquant.ops.make_output import output_leaves
from fxquant.precision.operand_groups import observed
from fxquant.precision.run_outputs import Shown
from fxquant.precision.steps import output_of
from fxquant.precision.switches import Switches
from fxquant.progress import track
from fxquant.reconstruction.evaluator import Evaluator


def estimated_energies(
    prepared: fx.GraphModule, shown: Sequence[Shown], probes: int, seed: int, progress: bool
) -> dict[Observer, float]:
    """
    Return for each operand the energy ``|y - y_float|^2`` of the error of all outputs where it alone is quantised.

    The model is taken as linear in the rounding error d of an operand, with the Jacobian J: the energy is ``|J d|^2``. That is
    the mean of ``(r J d)^2`` over normal vectors r (Hutchinson, 1989), and one backward pass from ``r y`` gives ``r J`` for all
    operands at once. probes: how many such vectors each batch has; images do not mix, and each counts by itself. Shifts of a
    bias, which correct a mean error, are not seen. Ranks of a process group share the batches.
    """
    operands = [observer for _, observer in observed(prepared)]
    own = list(track(shard(list(enumerate(shown))), "estimate", "batch", shown=progress, leave=False))
    sums = [_energies(prepared, each.inputs, probes, seed + index) for index, each in own]
    found = [[sum(each.get(o, 0.0) for each in sums) for o in operands]]
    totals = [sum(column) for column in zip(*(row for rows in gather_objects(found) for row in rows), strict=True)]
    return dict(zip(operands, totals, strict=True))


class _Probed(Switches):
    """Every operand passes as it is, with a zero added whose gradient tells what adding anything would do."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.zeros: list[tuple[Observer, Tensor, Tensor]] = []

    def quantized(self, observer: Observer, x: Tensor) -> Tensor:
        with torch.no_grad():
            error = self.rounded(observer, x.detach()) - x.detach()
        zero = torch.zeros_like(x, requires_grad=True)
        self.zeros.append((observer, zero, error))
        return x + zero


def _energies(prepared: fx.GraphModule, inputs: Sequence[Tensor], probes: int, seed: int) -> dict[Observer, float]:
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        probed = _Probed(prepared)
        places = (n for n in prepared.graph.nodes if n.op == "placeholder")
        (output,) = Evaluator(prepared, probed).values(
            (output_of(prepared.graph),), dict(zip(places, inputs, strict=True))
        )
        found = [t for t in output_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        zeros = [zero for _, zero, _ in probed.zeros]
        energies: dict[Observer, float] = defaultdict(float)
        for turn in range(probes):
            drawn = [torch.randn(t.shape, generator=generator).to(t) for t in found]
            loss = torch.stack([(t.double() * r).sum() for t, r in zip(found, drawn, strict=True)]).sum()
            gradients = torch.autograd.grad(loss, zeros, retain_graph=turn < probes - 1, allow_unused=True)
            sums: dict[Observer, Tensor] = {}
            for (observer, _, error), gradient in zip(probed.zeros, gradients, strict=True):
                if gradient is not None:
                    part = _per_image(observer, gradient, error, batch_size(inputs))
                    sums[observer] = sums[observer] + part if observer in sums else part
            for observer, total in sums.items():
                energies[observer] += float(total.square().sum()) / probes
    return energies


def _per_image(observer: Observer, gradient: Tensor, error: Tensor, count: int) -> Tensor:
    """Return the product of both summed over each of `count` images, ``(B,)``; ``(1,)`` where they share the operand."""
    product = gradient.double() * error.double()
    apart = not observer.frozen and product.dim() > 1 and product.shape[0] % count == 0
    return product.reshape(count if apart else 1, -1).sum(1)
