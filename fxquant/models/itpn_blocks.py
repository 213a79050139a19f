"""The parts of iTPN: images become cells, cells are merged and split, and blocks keep their shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

INNER = 4  # a patch is a grid of 4x4 cells, which two merges make one token


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return the layer norm that every part uses."""
    return nn.LayerNorm(dim, eps=1e-6)


class PatchEmbed(nn.Module):
    """
    Cut images into cells, grouped by the patch they belong to: ``(B, 3, S, S) -> (B, N, 4, 4, C)``.

    grid: patches along each side, ``N = grid ** 2``. Images of another size are refused by the reshape.
    """

    def __init__(self, grid: int, cell: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=cell, stride=cell)
        self.norm = layer_norm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return cells ``(B, N, 4, 4, C)``."""
        cells: Tensor = self.proj(images)  # (B, C, 4 * grid, 4 * grid)
        cells = cells.unflatten(3, (self.grid, INNER)).unflatten(2, (self.grid, INNER))
        normed: Tensor = self.norm(cells.permute(0, 2, 4, 3, 5, 1).flatten(1, 2))
        return normed


class PatchMerge(nn.Module):
    """Merge cells 2x2 within each patch: ``(B, N, 2h, 2h, C) -> (B, N, h, h, 2C)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = layer_norm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the merged cells; the four cells of a square are concatenated column by column."""
        squares = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, N, h, row, h, column, C)
        merged: Tensor = self.reduction(self.norm(squares.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)))
        return merged


class PatchSplit(nn.Module):
    """Split each cell into 2x2: ``(B, N, h, h, C) -> (B, N, 2h, 2h, O)``."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = layer_norm(dim)
        self.reduction = nn.Linear(dim, 4 * out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the cells of the next finer level."""
        squares: Tensor = self.reduction(self.norm(x)).unflatten(4, (2, 2, -1))  # (B, N, h, h, row, column, O)
        return squares.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3)


class ITPNAttention(nn.Module):
    """
    Multi-head self-attention over the patches, with a learned bias for each offset between two patches.

    bias_rows: the length of the table of biases, ``(2 * grid - 1) ** 2``; 0 leaves the bias out.

    The authors also clamp scores to finite values. That matters to masked tokens in pre-training only.
    """

    def __init__(self, dim: int, num_heads: int, bias_rows: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(bias_rows, num_heads)) if bias_rows else None

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Return tokens ``(B, N, C)`` after attention. index: ``(N, N)``, the row of the bias table for each two tokens."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D)
        table = self.relative_position_bias_table
        bias = None if table is None else table[index].permute(2, 0, 1)  # (H, N, N)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.proj(context.transpose(1, 2).flatten(2))
        return out


class ITPNBlock(nn.Module):
    """An MLP with norm and residual, after attention with norm and residual where there are heads. It keeps the shape."""

    def __init__(
        self, dim: int, mlp_ratio: float, num_heads: int = 0, bias_rows: int = 0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim) if num_heads else None
        self.attn = ITPNAttention(dim, num_heads, bias_rows) if num_heads else None
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return tokens ``(B, N, C)``, or cells ``(B, N, h, h, C)`` without attention."""
        if self.attn is not None and self.norm1 is not None:
            x = x + self.drop_path(self.attn(self.norm1(x), index))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out
