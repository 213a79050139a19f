"""What quantising each operand alone costs, estimated for all of them from a few backward passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.distributed import gather_objects, shard
from fxquant.graph.attributes import called_module
from fxquant.graph.inputs import batch_size
from fxquant.observers.base import Observer
from fxquant.ops.make_output import output_leaves
from fxquant.precision.operand_groups import observed
from fxquant.precision.run_outputs import Shown
from fxquant.precision.steps import output_of
from fxquant.precision.switches import Switches
from fxquant.progress import track
from fxquant.reconstruction.evaluator import Evaluator

_PRODUCTS = (F.linear, F.conv2d, torch.matmul)


def estimated_energies(
    prepared: fx.GraphModule, shown: Sequence[Shown], probes: int, seed: int, progress: bool
) -> dict[Observer, float]:
    """
    Return for each operand the energy ``|y - y_float|^2`` of the error of all outputs where it alone is quantised.

    The model is taken as linear in the rounding error d of an operand, with the Jacobian J: the energy is ``|J d|^2``. That is
    the mean of ``(r J d)^2`` over normal vectors r (Hutchinson, 1989), and one backward pass from ``r y`` gives ``r J`` for all
    operands at once; that of a weight is taken at the result of its product, where images are apart. probes: how many such
    vectors each batch has; each image counts by itself. Ranks of a process group share the batches.
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
        self.weights: dict[Observer, Tensor] = {}
        calls = [(node, observer) for node, observer in observed(prepared) if observer.frozen]
        self.read = {o for node, o in calls if all(user.target in _PRODUCTS for user in node.users)}

    def quantized(self, observer: Observer, x: Tensor) -> Tensor:
        """Return an operand with its zero; a constant one is left to the products that read it, where images are apart."""
        with torch.no_grad():
            error = self.rounded(observer, x.detach()) - x.detach()
        if observer in self.read:
            self.weights[observer] = error
            return x
        return self.probed(observer, x, error)

    def probed(self, observer: Observer, x: Tensor, error: Tensor) -> Tensor:
        """Return `x` with a zero, in place of which the `error` of an operand could be added."""
        zero = torch.zeros_like(x, requires_grad=True)
        self.zeros.append((observer, zero, error))
        return x + zero


class _ProbedRun(Evaluator):
    """Run a graph in float, with zeros added to activations, and to the results of products with a constant operand."""

    def __init__(self, gm: fx.GraphModule, probed: _Probed) -> None:
        super().__init__(gm, probed)
        self.probed = probed

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node; of what reads a rounded constant, also what its error would add to the result."""
        result = super().run_node(n)
        for place, operand in enumerate(n.args if n.target in _PRODUCTS else ()):
            observer = called_module(operand)
            if isinstance(observer, Observer) and observer in self.probed.weights:
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                changed = list(args) if n.target is torch.matmul else [*args[:2], None, *args[3:]]
                changed[place] = self.probed.weights[observer]
                with torch.no_grad():
                    error = n.target(*changed, **{k: v for k, v in kwargs.items() if k != "bias"})  # type: ignore[operator]
                    error = error if observer.bias_shift.numel() == 0 else error + _as_bias(observer.bias_shift, error)
                result = self.probed.probed(observer, result, error)
        return result


def _as_bias(shift: Tensor, result: Tensor) -> Tensor:
    """Return a shift ``(O,)`` as it is added to the result of a linear layer or of a convolution."""
    return shift[:, None, None] if result.dim() == 4 else shift


def _energies(prepared: fx.GraphModule, inputs: Sequence[Tensor], probes: int, seed: int) -> dict[Observer, float]:
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        probed = _Probed(prepared)
        places = (n for n in prepared.graph.nodes if n.op == "placeholder")
        (output,) = _ProbedRun(prepared, probed).values(
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
                    part = _per_image(gradient, error, batch_size(inputs))
                    sums[observer] = sums[observer] + part if observer in sums else part
            for observer, total in sums.items():
                energies[observer] += float(total.square().sum()) / probes
    return energies


def _per_image(gradient: Tensor, error: Tensor, count: int) -> Tensor:
    """Return the product of both summed over each of `count` images, ``(B,)``; ``(1,)`` where axis 0 has others."""
    product = gradient.double() * error.double()
    apart = product.dim() > 1 and product.shape[0] % count == 0
    return product.reshape(count if apart else 1, -1).sum(1)
