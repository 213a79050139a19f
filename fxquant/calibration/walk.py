"""Run a prepared model node by node over all batches, stopping before each product to search its scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from fxquant.calibration.batch import Inputs
from fxquant.calibration.held_values import Values
from fxquant.calibration.sites import Site
from fxquant.errors import CalibrationError, FxquantError
from fxquant.graph.attributes import weight_of
from fxquant.graph.meta import record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import add_noise

Stop = Callable[[Site, "Walk"], None]


class Walk(fx.Interpreter):
    """
    Run the graph from site to site: all batches up to one site, then all batches up to the next.

    Observers see the batches in the same order as in a plain loop. `stop` is called before the first product of each site, and
    may ask `operand` for what that product reads. quantised: whether a product reads the quantised results of the products
    before it, or float ones. observing: whether observers take in what they see. Between sites, only values that later nodes
    read are kept.
    """

    def __init__(
        self, gm: fx.GraphModule, sites: Sequence[Site], values: Values, quantised: bool, observing: bool = True
    ) -> None:
        super().__init__(gm)
        self.observing = observing
        self.nodes = list(gm.graph.nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.sites = {site.first: site for site in sites}
        self.quantised = {n for site in sites for n in site.products} if quantised else set[fx.Node]()
        self.values, self.batches = values, 0
        self.last_use = {n: max((self.position[u] for u in n.users), default=-1) for n in self.nodes}

    def over(self, batches: Sequence[Inputs], stop: Stop) -> None:
        """Walk over all `batches`."""
        for site in self.stops(batches):
            stop(site, self)

    def stops(self, batches: Sequence[Inputs]) -> Iterator[Site]:
        """Walk over all `batches`, and yield each site where it stops before its first product."""
        self.batches = len(batches)
        placeholders = [n for n in self.nodes if n.op == "placeholder"]
        for index, inputs in enumerate(batches):
            for node, value in zip(placeholders, inputs, strict=True):
                self.values.put(node, index, value)
        start = 0
        for node, site in self.sites.items():
            self._advance(start, self.position[node])
            yield site
            start = self.position[node]
        self._advance(start, len(self.nodes) - 1)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module of the graph; an observer that is to take in nothing gives its input."""
        watches = isinstance(self.fetch_attr(target), Observer | InputRecorder)
        return args[0] if watches and not self.observing else super().call_module(target, args, kwargs)

    def operand(self, node: object, batch: int) -> Tensor:
        """Return what `node`, which a product is about to read, gave for `batch`."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            constant: Tensor = self.fetch_attr(str(node.target))
            return constant
        value: Tensor = self.values.get(node, batch)  # type: ignore[arg-type]
        return value

    def _advance(self, start: int, stop: int) -> None:
        """Run ``nodes[start:stop]`` for all batches."""
        segment = [n for n in self.nodes[start:stop] if n.op not in ("placeholder", "get_attr", "output")]
        inputs = {a for n in segment for a in n.all_input_nodes}
        for batch in range(self.batches):
            self.env = {}
            for node in segment:
                self._fetch(node, batch)
                self.env[node] = self._run(node, batch)
                for used in node.all_input_nodes:
                    # A value of this batch that nobody reads any more.
                    if used in self.env and self.last_use[used] <= self.position[node]:
                        del self.env[used]
            for node in segment:
                if self.last_use[node] >= stop and node in self.env:
                    self.values.put(node, batch, self.env[node])
            for node in inputs:
                if self.last_use[node] < stop and self.values.holds(node, batch):
                    self.values.drop(node, batch)
        self.env = {}

    def _fetch(self, node: fx.Node, batch: int) -> None:
        for used in node.all_input_nodes:
            if used not in self.env:
                constant = used.op == "get_attr"
                self.env[used] = self.fetch_attr(str(used.target)) if constant else self.values.get(used, batch)

    def _run(self, node: fx.Node, batch: int) -> Any:
        try:
            return self._quantised_product(node) if node in self.quantised else self.run_node(node)
        except FxquantError:
            raise
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise CalibrationError(f"calibration batch {batch}: node {node.name!r} does not run: {error}") from error

    def _quantised_product(self, node: fx.Node) -> Tensor:
        """Compute a product as it will be after `convert`."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        record = record_of(node)
        operands, dtype = list(args), args[0].dtype
        site = Site((node,))
        shift: Tensor | None = None
        for position in range(len(record.operands) if record else 0):
            observer = site.observer(position)
            if observer is None:
                operands[position] = operands[position].float()
                continue
            operands[position] = quantised_operand(observer, operands[position], node)
            if observer.bias_shift.numel():
                shift = observer.bias_shift
        if len(operands) > 2 and isinstance(operands[2], Tensor):
            operands[2] = operands[2].float() if shift is None else operands[2].float() + shift
        elif shift is not None:
            operands[2:3] = [shift]
        result: Tensor = self.call_function(node.target, tuple(operands), kwargs)
        return result.to(dtype)


def quantised_operand(observer: Observer, value: Tensor, product: fx.Node) -> Tensor:
    """Return the operand `value` of `product` as it will be after `convert`."""
    params, value = observer.calculate_qparams(), observer.quantized_from(value)
    if observer.noise.numel() == 0:
        return observer.fake_quantize(value, params)
    noise = observer.noise.reshape(weight_of(product).shape[1:])
    return add_noise(observer.fake_quantize(add_noise(value, noise), params), -noise)
