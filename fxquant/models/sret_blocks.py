"""The parts of SReT: convolutions that shrink the image, sliced attention, its blocks, and stages that apply blocks again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from fxquant.errors import InputError


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return the layer norm that every part uses."""
    return nn.LayerNorm(dim, eps=1e-6)


def halving_conv(in_dim: int, out_dim: int, groups: int = 1) -> nn.Conv2d:
    """Return the convolution that every part uses: it halves both sides of a map, rounding up."""
    return nn.Conv2d(in_dim, out_dim, kernel_size=3, stride=2, padding=1, groups=groups)


class Stem(nn.Module):
    """Three convolutions with batch norm and ReLU: ``(B, in_chans, S, S) -> (B, C, S/8, S/8)``."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = halving_conv(in_chans, dim // 2), nn.BatchNorm2d(dim // 2)
        self.conv2, self.bn2 = halving_conv(dim // 2, dim), nn.BatchNorm2d(dim)
        self.conv3, self.bn3 = halving_conv(dim, dim), nn.BatchNorm2d(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the map ``(B, C, S/8, S/8)``, before position embeddings are added."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)))


class Pool(nn.Module):
    """Quarter the tokens of a map and widen them: ``(B, side^2, C) -> (B, ceil(side/2)^2, O)``."""

    def __init__(self, side: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.side = side
        self.conv = halving_conv(dim, out_dim, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens of the next stage."""
        maps: Tensor = self.conv(x.transpose(1, 2).unflatten(2, (self.side, self.side)))
        return maps.flatten(2).transpose(1, 2)


class Coefficient(nn.Module):
    """A learned factor. Checkpoints call it a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the factor."""
        return x * self.bias


class Permutation(nn.Module):
    """
    An order of N tokens and its inverse. In evaluation it is always the same, in training it is drawn anew at every call.

    The published code draws in evaluation too, so that its logits differ from run to run. The buffers ``(N,)`` are not part
    of the state dict, as no checkpoint has them. Whoever builds the model passes the generator that draws them.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, tokens: int, generator: np.random.RandomState) -> None:
        super().__init__()
        # NumPy promises that this generator never changes: the same order with every version and on every device.
        order = torch.from_numpy(generator.permutation(tokens)).long()
        device = torch.get_default_device()
        self.register_buffer("order", order.to(device), persistent=False)
        self.register_buffer("inverse", order.argsort().to(device), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return an order and its inverse."""
        if not self.training:
            return self.order, self.inverse
        order = torch.randperm(len(self.order), device=self.order.device)
        return order, order.argsort()

    def assign(self, order: Tensor) -> None:
        """Use `order` ``(N,)`` in evaluation. Raises `InputError` where it does not hold each of 0..N-1 once."""
        count = len(self.order)
        if order.shape != (count,) or not torch.equal(order.cpu().sort().values.long(), torch.arange(count)):
            raise InputError(f"expected a permutation of {count} tokens, found {order!s:.100}")
        self.order.copy_(order)
        self.inverse.copy_(order.argsort())


class SReTAttention(nn.Module):
    """Multi-head self-attention within slices of the tokens, in their own order or in a given one."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, slices: int, permutation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """
        Return tokens ``(B, N, C)``. Slice i attends to its own tokens: ``i * n`` to ``(i + 1) * n - 1``, with ``n = N /
        slices``.
        """
        if permutation is not None:
            x = x[:, permutation[0]]
        qkv: Tensor = self.qkv(x)
        if slices > 1:
            qkv = qkv.unflatten(1, (slices, -1)).flatten(0, 1)  # (B * slices, n, 3C)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B * slices, H, n, D)
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if slices > 1:
            context = context.unflatten(0, (-1, slices)).flatten(1, 2)  # (B, N, C)
        if permutation is not None:
            context = context[:, permutation[1]]
        out: Tensor = self.proj(context)
        return out


class SReTBlock(nn.Module):
    """SReTAttention with norm, then an MLP with norm. Both terms of each residual have a coefficient."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = SReTAttention(dim, num_heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.coefficient1, self.coefficient2 = Coefficient(), Coefficient()
        self.coefficient3, self.coefficient4 = Coefficient(), Coefficient()

    def forward(self, x: Tensor, slices: int, permutation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return tokens ``(B, N, C)``; the other arguments are those of `SReTAttention.forward`."""
        attended = self.drop_path(self.attn(self.norm1(x), slices, permutation))
        x = self.coefficient1(x) + self.coefficient2(attended)
        out: Tensor = self.coefficient3(x) + self.coefficient4(self.drop_path(self.mlp(self.norm2(x))))
        return out


class Projection(nn.Module):
    """The non-linear projection after each application of a block: an MLP with norm and coefficients."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.coefficient1, self.coefficient2 = Coefficient(), Coefficient()

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, N, C)``."""
        out: Tensor = self.coefficient1(x) + self.coefficient2(self.mlp(self.norm1(x)))
        return out


class SReTStage(nn.Module):
    """
    Apply each of some attention blocks several times in a row, `depth` times in all, with a projection after each
    application.

    `blocks` is block, projection, block, projection, and so on. A block is listed as often as it is applied, with one set
    of parameters. Applications take turns: the first, the third and so on attend within ``slices[0]`` slices of the tokens
    ``(B, N, C)`` as they come. The others attend within ``slices[1]`` slices of a permutation, if that is more than one.
    """

    def __init__(
        self,
        blocks: Sequence[SReTBlock],
        depth: int,
        tokens: int,
        dim: int,
        slices: tuple[int, int],
        np_mlp_ratio: float,
        generator: np.random.RandomState,
    ) -> None:
        super().__init__()
        self.slices = slices
        self.blocks = nn.ModuleList()
        for i in range(depth):
            self.blocks.append(blocks[i * len(blocks) // depth])
            self.blocks.append(Projection(dim, np_mlp_ratio))
        permuted = range(1, depth, 2) if slices[1] > 1 else ()
        self.permutations = nn.ModuleDict({str(i): Permutation(tokens, generator) for i in permuted})

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, N, C)``."""
        for i, (block, projection) in enumerate(zip(self.blocks[::2], self.blocks[1::2], strict=True)):
            permutation = self.permutations[str(i)]() if str(i) in self.permutations else None
            x = projection(block(x, self.slices[i % 2], permutation))
        return x
