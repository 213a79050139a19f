"""How the ranks of a process group share the searches of one model."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from torch import Tensor, fx

from fxquant.calibration.grid import Losses, Scorer, score_here
from fxquant.calibration.sample import Sample
from fxquant.calibration.sites import Site
from fxquant.config.search import Inputs
from fxquant.distributed import interleave, shard, together, world_size
from fxquant.graph.attributes import weight_of
from fxquant.graph.meta import known_value, record_of
from fxquant.observers.base import Observer

WORTH = 2**24  # multiply-accumulates of a site; below, scoring a candidate is quicker than telling the others
FOUND = ("found_scale", "found_zero_point", "noise", "bias_shift", "found_weight")
Found = list[dict[str, Tensor]]  # of the observers of one site, in the order of `site_observers`


class Sharing(Enum):
    """What the ranks share out when they calibrate; `value` says it in words."""

    BATCHES = "the batches are shared out"
    SITES = "the searches of the products are shared out, forward passes and gradients run on every rank"
    CANDIDATES = "the candidates of each search are shared out, all else of a search runs on every rank"


def sharing_of(prepared: fx.GraphModule) -> Sharing:
    """Return what ranks share out when they calibrate `prepared`."""
    records = [r for r in (record_of(n) for n in prepared.graph.nodes) if r is not None]
    if not any(r.search is not None or r.noise is not None for r in records):
        return Sharing.BATCHES
    # Behind a quantised product everything waits for what was found there.
    quantised = any(r.search is not None and r.search.inputs_from is Inputs.QUANTISED for r in records)
    return Sharing.CANDIDATES if quantised else Sharing.SITES


def assign(samples: dict[Site, Sample]) -> dict[Site, int]:
    """Return the rank that searches each site: the costly ones first, each to the rank with the least to do by then."""
    costs = {site: cost_of(site, sample) for site, sample in samples.items()}
    loads, ranks = [0] * world_size(), dict[Site, int]()
    for site in sorted(costs, key=costs.__getitem__, reverse=True):
        ranks[site] = loads.index(min(loads))
        loads[ranks[site]] += costs[site]
    return ranks


def scorer_for(site: Site, sample: Sample, sharing: Sharing) -> Scorer:
    """Return how the candidates of a site are scored."""
    alone = world_size() == 1 or sharing is not Sharing.CANDIDATES or cost_of(site, sample) < WORTH
    return score_here if alone else score_shared


def score_shared(losses: Losses, candidates: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the losses of each of the `candidates`, of which every rank computes its share."""
    if len(candidates) < 2:
        return [losses(index) for index in candidates]
    device = candidates[0].device
    shares = together(lambda: [losses(index).double().cpu() for index in shard(candidates)])
    return [found.to(device) for found in interleave(shares)]


def site_observers(site: Site) -> list[Observer]:
    """Return the observers of all operands of a site."""
    found = [site.observer(position, product) for product in site.products for position in (0, 1)]
    return [observer for observer in found if observer is not None]


def what_was_found(site: Site) -> Found:
    """Return what the observers of a site hold after its search, on the CPU."""
    return [{name: getattr(o, name).cpu() for name in FOUND} for o in site_observers(site)]


def put_found(site: Site, found: Found) -> None:
    """Give the observers of a site what another rank found."""
    for observer, buffers in zip(site_observers(site), found, strict=True):
        for name, buffer in buffers.items():
            setattr(observer, name, buffer.to(observer.batches.device))


def cost_of(site: Site, sample: Sample) -> int:
    """Return the multiply-accumulates of a site's products over its sample."""
    if site.activations:
        shape = known_value(site.first).shape
        heads = shape[-3] if len(shape) == 4 else 1
        width = known_value(site.first.args[0]).shape[-1]
        return int(sample.tokens * heads * shape[-1] * width)
    return sum(sample.tokens * weight_of(n).numel() for n in site.products)
