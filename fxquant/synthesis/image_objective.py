"""The loss that synthesised images minimise, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.synthesis.contexts import ContextGraph
from fxquant.synthesis.losses import total_variation
from fxquant.synthesis.patch_entropy import patch_entropy
from fxquant.synthesis.synthesis_options import SynthesisOptions


class Losses(NamedTuple):
    """
    The loss and its parts, each part before it is weighted.

    entropy: minus the patch-similarity entropies of all blocks.
    total_variation: its distance from the target.
    """

    total: float
    entropy: float
    cross_entropy: float
    total_variation: float


@dataclass(frozen=True)
class Jitter:
    """A change of the images before the model sees them: roll by `offset` pixels in height and width, then mirror."""

    offset: int
    flip: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return the images ``(B, 3, H, W)`` that the model sees."""
        rolled = images.roll((self.offset, self.offset), (2, 3))
        return rolled.flip(3) if self.flip else rolled


@dataclass(frozen=True, eq=False)
class SynthesisObjective:
    """
    The loss of images for one model: patch-similarity entropy, cross entropy and total variation.

    It is the sum that PSAQ-ViT (Li et al., ECCV 2022) minimises, each part with its weight from `options`.

    dtype: what the model computes in. Losses are computed in float32.
    """

    graph: ContextGraph
    options: SynthesisOptions
    dtype: torch.dtype

    def gradient(self, images: Tensor, labels: Tensor, tau: float, jitter: Jitter) -> tuple[Losses, Tensor]:
        """
        Return the losses of images ``(B, 3, H, W)``, and the gradient of the total loss with respect to them.

        labels: the class of each image, ``(B,)``.
        tau: the target of the total variation.
        """
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            parts = self._parts(jitter(images), labels, tau)
            weights = (self.options.entropy_weight, self.options.ce_weight, self.options.tv_weight)
            total = torch.stack([part * weight for part, weight in zip(parts, weights, strict=True)]).sum()
            (gradient,) = torch.autograd.grad(total, images)
        return Losses(*torch.stack([total, *parts]).tolist()), gradient

    def _parts(self, images: Tensor, labels: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
        logits, *contexts = self.graph.gm(images.to(self.dtype))
        entropies = [
            patch_entropy(
                context,
                len(images),
                site.prefix,
                bandwidth=self.options.bandwidth,
                grid_size=self.options.grid_size,
            )
            for context, site in zip(contexts, self.graph.sites, strict=True)
        ]
        distance = (total_variation(images) - tau).abs()
        return -torch.stack(entropies).sum(), F.cross_entropy(logits.float(), labels), distance
