"""
Give a model the channel outliers of large pretrained transformers without changing the function it computes.

Small models have even channels, so plain 8-bit quantisation costs them nothing. In pretrained ViTs a few channels of the
LayerNorm outputs and of the hidden layer are tens of times wider than the rest, and one scale for the whole tensor then has
no room for the others. Three exact transforms make such channels, one for each kind of operand:

- LayerNorm before linear layers: gamma and beta times f, the matching input columns of the next weight divided by f.
- Attention output before proj: it is linear in v, so the rows of v in qkv times f, the columns of proj divided by f.
- GELU before fc2: it is not homogeneous, so scaling its input does not scale its output, but GELU(z) - GELU(-z) = z holds
  exactly, hence GELU(z) = GELU(-z) + (GELU(f z) - GELU(-f z)) / f for any f. A hidden unit becomes the three of the right
  side; the two new ones are outliers whose difference, at full precision, the model needs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from timm.layers import Mlp
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fxquant.errors import ConfigError, InputError


@dataclass(frozen=True)
class Outliers:
    """
    How many outlier channels each operand gets, and how far they stand out.

    norm, value, hidden: channels of each LayerNorm output, attention output and hidden layer; 0 leaves that kind as it is.
    factor: the smallest and largest f, drawn log-uniformly for each channel.
    """

    norm: int = 4
    value: int = 4
    hidden: int = 4
    factor: tuple[float, float] = (32.0, 128.0)

    def __post_init__(self) -> None:
        low, high = self.factor
        if min(self.norm, self.value, self.hidden) < 0 or not 0 < low <= high:
            raise ConfigError(f"counts must not be negative and factors must be 0 < low <= high, found {self}")


@torch.no_grad()
def inject_outliers(model: nn.Module, outliers: Outliers | None = None, seed: int = 0) -> nn.Module:
    """
    Return a copy of a timm ViT, DeiT or Swin that has outlier channels and computes the same, to float rounding.

    The hidden layer of each MLP grows by ``2 * outliers.hidden`` units. seed: of the channels and factors; the same seed
    gives the same model. The layers after the last norm are left as they are.

    Raises
    ------
    InputError
        If the model has no transformer blocks of these kinds, or fewer channels than outliers.
    """
    model = copy.deepcopy(model)
    draw = _Draw(outliers or Outliers(), torch.Generator().manual_seed(seed))
    blocks = [module for module in model.modules() if isinstance(module, (Block, SwinTransformerBlock))]
    if not blocks:
        raise InputError(f"expected a timm model with ViT or Swin blocks, found none in a {type(model).__name__}")
    for block in blocks:
        draw.scale_norm(block.norm1, [block.attn.qkv])
        draw.scale_value(block.attn.qkv, block.attn.proj)
        draw.scale_norm(block.norm2, [block.mlp.fc1])
        draw.split_hidden(block.mlp)
    for merging in (module for module in model.modules() if isinstance(module, PatchMerging)):
        draw.scale_norm(merging.norm, [merging.reduction])
    return model


@dataclass(frozen=True)
class _Draw:
    """The three transforms, on channels and factors drawn from one random stream."""

    outliers: Outliers
    random: torch.Generator

    def scale_norm(self, norm: nn.LayerNorm, readers: Iterable[nn.Linear]) -> None:
        """Scale channels of a LayerNorm up, and the columns of all linear layers that read it down."""
        channels, factors = self._pick(self.outliers.norm, norm.weight.shape[0])
        norm.weight[channels] *= factors
        norm.bias[channels] *= factors
        for reader in readers:
            reader.weight[:, channels] /= factors

    def scale_value(self, qkv: nn.Linear, proj: nn.Linear) -> None:
        """Scale channels of v, the last third of qkv's rows, up, and the columns of proj down."""
        channels, factors = self._pick(self.outliers.value, proj.in_features)
        rows = channels + 2 * proj.in_features
        qkv.weight[rows] *= factors[:, None]
        qkv.bias[rows] *= factors
        proj.weight[:, channels] /= factors

    def split_hidden(self, mlp: Mlp) -> None:
        """Make three hidden units of one: rows r become -r, f r and -f r, columns c become c, c / f and -c / f."""
        units, factors = self._pick(self.outliers.hidden, mlp.fc1.out_features)
        rows, bias, columns = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight
        linear = factors[:, None] * rows[units], factors * bias[units], columns[:, units] / factors
        rows[units] *= -1
        bias[units] *= -1
        mlp.fc1 = _linear(torch.cat((rows, linear[0], -linear[0])), torch.cat((bias, linear[1], -linear[1])))
        mlp.fc2 = _linear(torch.cat((columns, linear[2], -linear[2]), dim=1), mlp.fc2.bias)
        mlp.train(mlp.training)

    def _pick(self, count: int, width: int) -> tuple[Tensor, Tensor]:
        """Draw `count` of `width` channels and a factor for each."""
        if count > width:
            raise InputError(f"expected at least {count} channels to make outliers of, found {width}")
        low, high = (math.log(bound) for bound in self.outliers.factor)
        channels = torch.randperm(width, generator=self.random)[:count]
        return channels, (low + (high - low) * torch.rand(count, generator=self.random)).exp()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a linear layer ``(..., K) -> (..., O)`` of a weight ``(O, K)`` and bias ``(O,)``, on their device."""
    out_features, in_features = weight.shape
    linear = nn.Linear(in_features, out_features, device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear
