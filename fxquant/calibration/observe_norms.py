"""See each channel of the norms that are to be folded, before anything else is calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxquant.calibration.batch import Inputs, run_batch
from fxquant.config.folds import Reparameterize, Smooth
from fxquant.config.operands import TensorSpec
from fxquant.distributed import together
from fxquant.errors import CalibrationError, InputError, UnsupportedGraphError
from fxquant.graph.meta import record_of
from fxquant.graph.norm_sites import NormSite, norm_sites
from fxquant.graph.shapes import propagate_shapes
from fxquant.numerics.granularity import PerChannel
from fxquant.observers.base import Observer
from fxquant.observers.minmax import MinMax
from fxquant.progress import Bar


def has_norm_folds(prepared: fx.GraphModule) -> bool:
    """Say whether any norm of a prepared graph is still to be folded."""
    return any(record is not None and record.fold is not None for record in map(record_of, prepared.graph.nodes))


def observe_norms(prepared: fx.GraphModule, batches: Sequence[Inputs], progress: bool) -> dict[str, Observer]:
    """
    Return what observers of each channel saw of the norms that are to be folded, by the names of their nodes.

    They are of the kind that the readers of a norm have, or plain minimum and maximum for `Smooth`. No other observer sees
    anything. In a process group every rank is given all batches, and all get what the first one saw. Raises
    `UnsupportedGraphError` where no norm can be folded.
    """
    try:
        propagate_shapes(prepared, batches[0])
    except InputError as error:
        raise CalibrationError(f"calibration batch 0: {error}") from error
    sites = norm_sites(prepared.graph)
    if not sites and _strict(prepared):
        raise UnsupportedGraphError(
            "folds: norms expected a norm that quantised linear layers alone read, channel by channel, found none: leave it out"
        )
    device = batches[0][0].device
    observers = {site.norm.name: _observer(site).to(device) for site in sites}
    with Bar(len(batches), "fold norms", "batch", shown=progress) as bar, torch.no_grad():

        def run() -> dict[str, Observer]:
            watch = _Watch(prepared, observers)
            for index, inputs in enumerate(batches):
                run_batch(watch.run, inputs, index)
                bar.update()
            return {name: observer.cpu() for name, observer in observers.items()}

        return together(run)[0]


def _strict(prepared: fx.GraphModule) -> bool:
    """Say whether a model without a norm to fold is refused."""
    folds = [record.fold for n in prepared.graph.nodes if (record := record_of(n)) is not None]
    return any(isinstance(fold, Smooth) or (isinstance(fold, Reparameterize) and fold.strict) for fold in folds)


def _observer(site: NormSite) -> Observer:
    channels = PerChannel(-1)
    spec = replace(site.spec, granularity=channels)
    if isinstance(site.fold, Smooth):
        spec = TensorSpec(8, granularity=channels, observer=MinMax())
    return spec.build(site.norm.name)


class _Watch(fx.Interpreter):
    """Run a graph and show the results of norms to `observers`, by name; its own see nothing."""

    def __init__(self, gm: fx.GraphModule, observers: Mapping[str, Observer]) -> None:
        super().__init__(gm)
        self.observers = observers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.observers:
            self.observers[n.name](result)
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0]
