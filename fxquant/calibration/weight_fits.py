"""Fit the weights of a calibrated model to what its products read, one product after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.calibration.batch import Inputs
from fxquant.calibration.fitted_weight import WeightRows, fit_rows
from fxquant.calibration.held_values import Values
from fxquant.calibration.moments import Moments
from fxquant.calibration.restored import restored_on_failure
from fxquant.calibration.shared_batches import adopt_first
from fxquant.calibration.sites import Site, find_sites
from fxquant.calibration.walk import Walk, quantised_operand
from fxquant.config.search import Inputs as InputsFrom
from fxquant.config.weight_fit import WeightFit
from fxquant.distributed import together, world_size
from fxquant.errors import CalibrationError
from fxquant.graph.attributes import weight_of
from fxquant.graph.inputs import batch_size
from fxquant.graph.meta import record_of
from fxquant.observers.base import Observer, QParams
from fxquant.progress import Bar


def has_fits(prepared: fx.GraphModule) -> bool:
    """Say whether the weight of any product of a prepared graph is to be fitted."""
    return any(record is not None and record.fit is not None for record in map(record_of, prepared.graph.nodes))


def forget_fits(prepared: fx.GraphModule) -> None:
    """Let the observers forget what `run_fits` found before, so that statistics and searches see the model's own weights."""
    for site in find_sites(prepared, every=True):
        for observer in _fitted(site):
            observer.found_scale = observer.found_scale.new_zeros(0)
            observer.found_weight = observer.found_weight.new_zeros(0)
            observer.bias_shift = observer.bias_shift.new_zeros(0)


def run_fits(prepared: fx.GraphModule, batches: Sequence[Inputs], progress: bool, memory: int) -> None:
    """
    Fit the weight of each product whose record asks for it, in the order in which the products run.

    The float model and the quantised one, with what is fitted so far, run side by side over all `batches` from product to
    product; of what a product reads only second moments are kept. memory: bytes that may be used for the values between
    products; more go to temporary files. Where this ends early, the observers hold what they held before.

    In a process group every rank is given all batches and does the same.
    """
    sites = find_sites(prepared, every=True)
    with restored_on_failure(prepared), torch.no_grad(), Bar(len(sites), "fit", "product", shown=progress) as bar:
        together(lambda: _fit_all(prepared, sites, batches, bar, memory))
        if world_size() > 1:
            adopt_first(prepared)


def _fit_all(prepared: fx.GraphModule, sites: Sequence[Site], batches: Sequence[Inputs], bar: Bar, memory: int) -> None:
    with Values(memory // 2) as values, Values(memory // 2) as float_values:
        walk = Walk(prepared, sites, values, quantised=True, observing=False)
        float_walk = Walk(prepared, sites, float_values, quantised=False, observing=False)
        images = [batch_size(inputs) for inputs in batches]
        for site, _ in zip(walk.stops(batches), float_walk.stops(batches), strict=True):
            bar.rename(f"fit {site.label}")
            if site.record.fit is not None:
                _Reader(site, site.record.fit, walk, float_walk, images).fit()
            bar.update()


@dataclass(frozen=True, eq=False)
class _Reader:
    """One site, and the two walks that stand before it."""

    site: Site
    options: WeightFit
    walk: Walk
    float_walk: Walk
    images: Sequence[int]

    def fit(self) -> None:
        """Fit the weights of the products and let their observers hold what was found."""
        observers = _fitted(self.site)
        weights = [weight_of(product).flatten(1) for product in self.site.products]
        rows = WeightRows.of(weights, observers)
        try:
            found = fit_rows(rows, self._moments(), self.options)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise CalibrationError(
                f"node {self.site.label!r}: second moments of the input have no inverse: use a larger damping: {error}"
            ) from error
        lengths = [len(weight) for weight in weights]
        for index, (product, observer) in enumerate(zip(self.site.products, observers, strict=True)):
            weight, scale, shift = (each.split(lengths)[index] for each in (found.weight, found.scale, found.shift))
            observer.refine(QParams(scale, None, 0))
            observer.found_weight = weight.reshape(weight_of(product).shape).clone()
            if self.options.correction is not None:
                observer.bias_shift = shift.clone()

    def _moments(self) -> list[Moments]:
        """Return the moments of the input: of two halves of the images where one is held out, else of all of them."""
        parts = 2 if self.options.holds_out else 1
        if sum(self.images) < parts:
            raise CalibrationError(f"node {self.site.label!r}: a choice of ridges needs at least {parts} images")
        found: list[Moments | None] = [None] * parts
        first = 0
        for batch, images in enumerate(self.images):
            x, f = self._rows(batch)
            if len(x) % images and parts > 1:
                raise CalibrationError(
                    f"node {self.site.label!r}: a choice of ridges needs rows that belong to images, found {len(x)} rows of "
                    f"{images} images: use a single ridge"
                )
            part = (first + torch.arange(len(x), device=x.device) * images // len(x)) % parts
            for number in range(parts):
                own = part == number
                if bool(own.any()):
                    before = found[number]
                    if before is None:
                        found[number] = Moments.of(x[own], f[own], self.options.compares)
                    else:
                        before.add(x[own], f[own])
            first += images
        return [moments for moments in found if moments is not None]

    def _rows(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return what the quantised and the float product read of a batch, ``(T, K)`` float32 each."""
        node, observer = self.site.first.args[0], self.site.observer(0)
        expected = self.float_walk.operand(node, batch)
        value = self.walk.operand(node, batch) if self.options.inputs_from is InputsFrom.QUANTISED else expected
        if observer is not None:
            value = quantised_operand(observer, value, self.site.first)
        return self.site.rows(0, value).float(), self.site.rows(0, expected).float()


def _fitted(site: Site) -> list[Observer]:
    """Return the observers of the weights of a site that are fitted, one for each product; none where none are."""
    if site.record.fit is None:
        return []
    return [observer for product in site.products if (observer := site.observer(1, product)) is not None]
