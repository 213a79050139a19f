"""A calibrated model in which operands can be switched between float and quantised, one by one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import weight_of
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.stages import Stage, stage_of
from fxquant.graph.trained import is_trained
from fxquant.observers.base import Observer
from fxquant.ops import add_noise
from fxquant.precision.operand_groups import observed
from fxquant.reconstruction.straight_through import StraightThrough


class Switches(StraightThrough):
    """
    Quantise those operands whose observers are in `on`, as `fxquant.convert` will, and let all others pass as they are.

    The bias is moved with the weight that its shift was found for; a noisy bias comes and goes with the operand that it is for.
    """

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__()
        self.on: frozenset[Observer] = frozenset()
        self._noise = dict(_noise_of(prepared))
        self._constants: dict[Observer, Tensor] = {}

    def quantized(self, observer: Observer, x: Tensor) -> Tensor:
        """Return an operand `x` of any shape as its codes have it, in its own dtype, or as it is."""
        if observer not in self.on:
            return x
        if not observer.frozen:
            return self.rounded(observer, x)
        if observer not in self._constants:  # the rounded weights are a second model in memory
            self._constants[observer] = self.rounded(observer, x).detach()
        return self._constants[observer]

    def rounded(self, observer: Observer, x: Tensor) -> Tensor:
        """Return an operand as its codes have it, whether it is switched on or not."""
        noise = self._noise.get(observer)
        if noise is None:
            return super().quantized(observer, x).to(x.dtype)
        zero = x.new_zeros(x.shape)
        return (super().quantized(observer, add_noise(x, noise)) - add_noise(zero, noise)).to(x.dtype)

    def shift(self, observer: Observer) -> Tensor | None:
        """Return what is added to the bias of a product that reads this weight, ``(O,)``, None for nothing."""
        return super().shift(observer) if observer in self.on else None


def refuse_unswitchable(prepared: fx.GraphModule) -> None:
    """Raise `UnsupportedGraphError` for a graph whose operands cannot be switched, `CalibrationError` where uncalibrated."""
    if stage_of(prepared) is not Stage.PREPARED or is_trained(prepared):
        raise UnsupportedGraphError("expected a model, or a calibrated graph from fxquant.prepare that is not trained")
    for _, observer in observed(prepared):
        observer.calculate_qparams()  # raises, naming the node
        if observer.integer_softmax:
            raise UnsupportedGraphError(
                f"node {observer.operand!r}: a softmax on integers cannot be switched off alone: choose a recipe without it, "
                'such as recipe("fqvit", softmax="log2")'
            )


def _noise_of(prepared: fx.GraphModule) -> Iterable[tuple[Observer, Tensor]]:
    for node, observer in observed(prepared):
        product = next((user for user in node.users if user.target in PRODUCTS), None)
        if observer.noise.numel() and product is not None:
            yield observer, observer.noise.reshape(weight_of(product).shape[1:])
