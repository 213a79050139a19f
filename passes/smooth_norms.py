"""Move a part of the range of a norm's channels into the weights that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.folds import Smooth
from fxquant.graph.fold_tensors import exact_weight
from fxquant.graph.norm_sites import NormSite, norm_sites, scale_channels, settle_folds
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.base import Observer


@dataclass(frozen=True)
class SmoothNorms:
    """
    Divide each channel of norms by ``s = max|y|^alpha / max|w|^(1 - alpha)`` (SmoothQuant, equation 4).

    Before:  y = layer_norm(x, (C,), gamma, beta, eps); linear(observer(y), observer(w), b)
    Becomes: y = layer_norm(x, (C,), gamma / s, beta / s, eps); linear(observer(y), observer(w * s), b)

    The largest weight is that of all layers that read the norm. observers: of the channels of each norm, by the name of its
    node.
    """

    observers: Mapping[str, Observer]

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Fold the norms that the records ask for."""
        return edit(gm, self._fold)

    def _fold(self, gm: fx.GraphModule) -> bool:
        sites = [(site, site.fold) for site in norm_sites(gm.graph) if isinstance(site.fold, Smooth)]
        for site, fold in sites:
            with blame("smooth_norms", site.norm):
                ratio = _ratio(site, self.observers[site.norm.name], fold.alpha)
                scale_channels(site, ratio, torch.zeros_like(ratio))
        return bool(sites) and settle_folds(gm)


def _ratio(site: NormSite, observer: Observer, alpha: float) -> Tensor:
    """Return s, float64 ``(C,)``; 1 where a channel or its weights are all zero."""
    minimum, maximum = (bound.double() for bound in observer.range())
    values = torch.maximum(minimum.abs(), maximum.abs())
    weights = torch.stack([exact_weight(reader).cpu().abs().amax(0) for reader in site.readers]).amax(0)
    ratio = values**alpha / weights ** (1 - alpha)
    return ratio.where((values > 0) & (weights > 0), 1.0)
