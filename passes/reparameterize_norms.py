"""Give all channels of a norm the same range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.folds import Reparameterize
from fxquant.graph.norm_sites import norm_sites, scale_channels, settle_folds
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.base import Observer, QParams


@dataclass(frozen=True)
class ReparameterizeNorms:
    """
    Scale and shift the channels of norms so that one scale and zero point do for all (RepQ-ViT, section 4.2).

    Before:  y = layer_norm(x, (C,), gamma, beta, eps); linear(observer(y), observer(w), b)
    Becomes: y = layer_norm(x, (C,), gamma / r, beta / r - d, eps); linear(observer(y), observer(w * r), b + w @ (r * d))

    With scale s and zero point z of each channel, ``(C,)``: r = s / mean(s) and d = (round(mean(z)) - z) * mean(s). So each
    channel has the codes that it had by its own s and z. observers: of the channels of each norm, by the name of its node.
    """

    observers: Mapping[str, Observer]

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Fold the norms that the records ask for."""
        return edit(gm, self._fold)

    def _fold(self, gm: fx.GraphModule) -> bool:
        sites = [site for site in norm_sites(gm.graph) if isinstance(site.fold, Reparameterize)]
        for site in sites:
            with blame("reparameterize_norms", site.norm):
                scale_channels(site, *shared_range(self.observers[site.norm.name].calculate_qparams()))
        return bool(sites) and settle_folds(gm)


def shared_range(channels: QParams) -> tuple[Tensor, Tensor]:
    """Return r and d, float64 ``(C,)`` each, that bring `channels` to the mean of their scales and of their zero points."""
    scale = channels.scale.double()
    ratio = (scale / scale.mean()).clamp(min=1e-6)  # a channel that is constant has next to no scale
    if channels.zero_point is None:
        return ratio, torch.zeros_like(ratio)
    zero_point = channels.zero_point.double()
    return ratio, (zero_point.mean().round() - zero_point) * scale.mean()
