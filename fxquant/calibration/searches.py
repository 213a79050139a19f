"""Calibrate a model whose recipe searches: walk it once and find scales, noise and bias of each product on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from fxquant.calibration.batch import Inputs
from fxquant.calibration.gradients import Gradients
from fxquant.calibration.held_values import Values
from fxquant.calibration.noise_search import draw, draws, search_noise
from fxquant.calibration.problem import Problem
from fxquant.calibration.restored import restored_on_failure
from fxquant.calibration.sample import Sample
from fxquant.calibration.scales import search_scales
from fxquant.calibration.shared_batches import adopt_first
from fxquant.calibration.sharing import Found, Sharing, assign, put_found, scorer_for, sharing_of, what_was_found
from fxquant.calibration.sides import Part, Side
from fxquant.calibration.sites import Site, find_sites, refuse_unsearchable
from fxquant.calibration.table_error import table_error
from fxquant.calibration.walk import Walk
from fxquant.config.search import Gradient, ScaleSearch
from fxquant.distributed import rank, together, world_size
from fxquant.errors import CalibrationError, InputError
from fxquant.graph.attributes import bias_of, tensor_of, weight_of
from fxquant.graph.inputs import batch_size
from fxquant.graph.meta import record_of, set_record
from fxquant.graph.shapes import propagate_shapes
from fxquant.progress import Bar

# What a product is compared by where a noise is searched, but no scale.
_NOISE_ALONE = ScaleSearch(weights=False, inputs=False, rounds=1)


def has_searches(prepared: fx.GraphModule) -> bool:
    """Say whether any product of a prepared graph needs more than statistics."""
    records = [record_of(n) for n in prepared.graph.nodes]
    return any(r is not None and (r.search is not None or r.noise is not None) for r in records)


def run_searches(prepared: fx.GraphModule, batches: Sequence[Inputs], progress: bool, memory: int, seed: int) -> None:
    """
    Search everything that the records of `prepared` ask for on the calibration `batches`.

    memory: bytes that may be used for the values between products and for gradients; more values go to temporary files. Where
    this ends early, by an error or Ctrl-C, the observers hold what they held before.

    In a process group every rank is given all batches, and `Sharing` says what of the work is shared out.
    """
    try:
        propagate_shapes(prepared, batches[0])
    except InputError as error:
        raise CalibrationError(f"calibration batch 0: {error}") from error
    sharing = sharing_of(prepared)
    quantised = sharing is Sharing.CANDIDATES
    sites = find_sites(prepared, every=quantised)
    for site in sites:
        refuse_unsearchable(site)
    with restored_on_failure(prepared), Values(memory // 2) as values, torch.no_grad():
        search = _Searches(prepared, batches, sites, memory // 2, seed, sharing)
        with Bar(len(sites), "calibrate", "product", shown=progress) as bar:

            def stop(site: Site, walk: Walk) -> None:
                bar.rename(f"calibrate {site.label}")
                search.at(site, walk)
                bar.update()

            together(lambda: Walk(prepared, sites, values, quantised).over(batches, stop))
        search.exchange()
    for site, sample in search.samples.items():
        for product in site.products:
            record = record_of(product)
            if record is not None and (record.search is not None or record.noise is not None):
                first, *others = record.operands
                operands = (replace(first, table_error=search.table_errors.get(sites.index(site))), *others)
                set_record(product, replace(record, operands=operands, tokens=(sample.tokens, sample.total)))


@dataclass(eq=False)
class _Searches:
    """The searches over one model."""

    prepared: fx.GraphModule
    batches: Sequence[Inputs]
    sites: Sequence[Site]
    memory: int
    seed: int
    sharing: Sharing

    def __post_init__(self) -> None:
        self.images, batch = sum(map(batch_size, self.batches)), batch_size(self.batches[0])
        self.generator = torch.Generator().manual_seed(self.seed)
        self.samples = {
            site: Sample.of(site, self.images, (site.record.search or _NOISE_ALONE).max_rows, self.generator)
            for site in self.sites
        }
        self.owners = assign(self.samples) if self.sharing is Sharing.SITES else dict[Site, int]()
        self.found: dict[int, Found] = {}  # by the number of the site
        self.table_errors: dict[int, tuple[float, float]] = {}  # likewise
        self.gradients: dict[Gradient, Gradients] = {}
        for site in self.sites:
            options = site.record.search
            if options is not None and options.needs_gradient and options.gradient not in self.gradients:
                wanted = {s: self.samples[s] for s in self.sites if _reads(s, options.gradient) and self._own(s)}
                self.gradients[options.gradient] = Gradients(
                    self.prepared, self.batches, wanted, options.gradient, self.memory, self.seed, batch
                )

    def at(self, site: Site, walk: Walk) -> None:
        """Search what the record of `site` asks for; its operands are known by now."""
        if site.record.search is None and site.record.noise is None:
            return
        if not self._own(site):
            self._pass_over(site)
            return
        options = site.record.search or _NOISE_ALONE
        problem = self._problem(site, walk, options)
        scorer = scorer_for(site, self.samples[site], self.sharing)
        search_scales(problem, _order(site, problem, options), options.rounds, options.coarse, scorer)
        for side in (problem.left, problem.right):
            for part in side.parts:
                if part.observer is not None:
                    part.observer.refine(part.qparams)
        noise, observer = None, site.observer(0)
        if site.record.noise is not None and observer is not None:
            noise = search_noise(problem, site.record.noise, self.generator, scorer)
            observer.noise = noise
        if options.correct_bias and not site.activations:
            _correct_bias(site, problem.mean_error(noise))
        number, error = self.sites.index(site), table_error(problem, noise)
        if error is not None:
            self.table_errors[number] = error
        if world_size() > 1:
            self.found[number] = what_was_found(site)

    def exchange(self) -> None:
        """Give all ranks what each of them found."""
        if world_size() == 1:
            return
        self.table_errors = {n: own for each in together(lambda: self.table_errors) for n, own in each.items()}
        if self.sharing is Sharing.SITES:
            found = {number: own for each in together(lambda: self.found) for number, own in each.items()}
            for number in sorted(found):  # sites may share an observer, which then holds what the later one found
                put_found(self.sites[number], found[number])
        adopt_first(self.prepared)

    def _own(self, site: Site) -> bool:
        return self.owners.get(site, rank()) == rank()

    def _pass_over(self, site: Site) -> None:
        """Leave a site to another rank; the generator goes on as if it had been searched here."""
        noise, observer = site.record.noise, site.observer(0)
        if noise is not None and observer is not None and draws(noise):
            draw(noise.noise, weight_of(site.first)[0].numel(), self.generator)

    def _problem(self, site: Site, walk: Walk, options: ScaleSearch) -> Problem:
        sample, batches = self.samples[site], range(walk.batches)
        multipliers = options.multipliers

        def operand(position: int) -> Part:
            node = site.first.args[position]
            values = sample.take(site.rows(position, walk.operand(node, b)) for b in batches)
            return Part.of(site.observer(position), values, multipliers, options.clip_evenly)

        left = Side([operand(0)])
        bias = None
        if site.activations:
            right = Side([operand(1)], transposed=True)
        else:
            weights = [(site.observer(1, n), weight_of(n)) for n in site.products]
            right = Side([Part.of(observer, weight, multipliers) for observer, weight in weights], weight=True)
            bias = torch.cat([_bias(n) for n in site.products])
        sensitivity = self.gradients[options.gradient].at(site) if options.needs_gradient else None
        images = self.images if sample.index is None else 0
        centred = options.correct_bias and not site.activations
        return Problem(left, right, options.metric, bias, sensitivity, images, centred, options.weight_error)


def _correct_bias(site: Site, error: Tensor) -> None:
    shifts = error.neg().split([len(weight_of(n)) for n in site.products])
    for product, shift in zip(site.products, shifts, strict=True):
        weight = site.observer(1, product)
        if weight is not None:
            weight.bias_shift = shift.clone()


def _order(site: Site, problem: Problem, options: ScaleSearch) -> list[Side]:
    """Return the sides to search, in order."""
    if site.activations:
        wanted = [(problem.left, options.inputs), (problem.right, options.inputs)]
    else:
        wanted = [(problem.left, options.inputs), (problem.right, options.weights)]
        if options.weights_first:
            wanted.reverse()
    return [side for side, on in wanted if on and all(p.searched for p in side.parts)]


def _bias(product: fx.Node) -> Tensor:
    weight, bias = weight_of(product), bias_of(product)
    if isinstance(bias, fx.Node) and bias.op == "get_attr":
        return tensor_of(bias).float()
    return torch.zeros(len(weight), device=weight.device)


def _reads(site: Site, gradient: Gradient) -> bool:
    options = site.record.search
    return options is not None and options.needs_gradient and options.gradient is gradient
