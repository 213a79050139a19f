"""
iTPN: a hierarchical Vision Transformer whose early stages are MLPs within patches, and its feature pyramid.

"Integrally Pre-Trained Transformer Pyramid Networks", Tian et al., CVPR 2023. Parameters have the names they have in the
authors' checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from fxquant.errors import ConfigError
from fxquant.models.itpn_blocks import INNER, ITPNBlock, PatchEmbed, PatchMerge, PatchSplit, layer_norm

TABLE, POSITIONS, INDEX = "relative_position_bias_table", "absolute_pos_embed", "relative_position_index"


class ITPN(nn.Module):
    """
    iTPN for images of one size, as a classifier or as the backbone of a detector.

    Cells of 4x4 pixels (for patches of 16) pass `mlp_depth` MLP blocks, are merged to 8x8, pass as many again, and are merged
    to tokens ``(B, N, embed_dim)``, which pass `depth` attention blocks.

    Parameters
    ----------
    img_size
        Side of the images, or two equal sides; a multiple of `patch_size`, which is a multiple of 4.
    bridge_mlp_ratio, mlp_ratio
        Hidden width of the MLPs: before the tokens, and at the tokens and in the pyramid.
    drop_path_rate
        Stochastic depth of the last block in training; the blocks before it have linearly less.
    rpe
        Whether attention has a relative position bias.
    num_outs
        -1 (or 1): logits ``(B, num_classes)``, or features ``(B, embed_dim)`` for 0 classes. 2 to 5: that many feature maps
        ``(B, fpn_dim, h, w)`` as a list, finest first: strides (8, 16), (4, 8, 16), (4, 8, 16, 32), (4, 8, 16, 32, 64) for
        patches of 16. The strides beyond the patch are averages of the one before and need ``rpe=False``.
    fpn_dim, fpn_depth
        Width of those maps, MLP blocks per level of the pyramid.

    Weights of another image size can be loaded: see `checkpoint_filter_fn`.

    Raises `ConfigError` for arguments that do not fit together.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 512,
        mlp_depth: int = 3,
        depth: int = 24,
        num_heads: int = 8,
        bridge_mlp_ratio: float = 3.0,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        rpe: bool = True,
        num_outs: int = -1,
        fpn_dim: int = 256,
        fpn_depth: int = 2,
    ) -> None:
        super().__init__()
        grid = _grid(img_size, patch_size)
        _check_blocks(embed_dim, num_heads, depth)
        _check_outs(num_outs, grid, rpe)
        self.grid, self.depth, self.num_outs = grid, depth, num_outs
        self.num_features = self.embed_dim = embed_dim
        self.in_chans = in_chans
        self.num_classes = num_classes if num_outs < 2 else 0
        widths = (embed_dim // 4, embed_dim // 2, embed_dim)
        self.patch_embed = PatchEmbed(grid, patch_size // INNER, in_chans, widths[0])
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, grid**2, embed_dim))
        self.relative_position_index: Tensor | None
        self.register_buffer(INDEX, _relative_position_index(grid) if rpe else None)

        last = max(2 * mlp_depth + depth - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(2 * mlp_depth + depth)])
        self.blocks = nn.ModuleList()
        for width in widths[:2]:
            self.blocks.extend(ITPNBlock(width, bridge_mlp_ratio, drop_path=next(rates)) for _ in range(mlp_depth))
            self.blocks.append(PatchMerge(width))
        bias_rows = (2 * grid - 1) ** 2 if rpe else 0
        self.blocks.extend(ITPNBlock(embed_dim, mlp_ratio, num_heads, bias_rows, next(rates)) for _ in range(depth))

        if num_outs > 1:
            self._add_pyramid(widths, fpn_dim, fpn_depth, mlp_ratio)
        else:
            self.fc_norm = layer_norm(embed_dim)
            self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self._reset_weights()
        self.register_load_state_dict_pre_hook(_fit_on_load)  # type: ignore[no-untyped-call]

    def _add_pyramid(self, widths: tuple[int, ...], dim: int, depth: int, mlp_ratio: float) -> None:
        def blocks(count: int) -> list[ITPNBlock]:
            return [ITPNBlock(dim, mlp_ratio) for _ in range(count)]

        self.align_dim_16tofpn = nn.Linear(widths[2], dim) if widths[2] != dim else nn.Identity()
        self.align_dim_16to8 = nn.Linear(widths[1], dim, bias=False)
        self.split_16to8 = PatchSplit(widths[2], dim)
        self.block_16to8 = nn.Sequential(*blocks(depth))
        if self.num_outs > 2:
            self.align_dim_8to4 = nn.Linear(widths[0], dim, bias=False)
            self.split_8to4 = PatchSplit(dim, dim)
            self.block_8to4 = nn.Sequential(*blocks(depth))
        self.fpn_modules = nn.ModuleList(blocks(min(self.num_outs, 3)))

    def _reset_weights(self) -> None:
        trunc_normal_(self.absolute_pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that weight decay should leave alone."""
        return {name for name, _ in self.named_parameters() if name.endswith((TABLE, POSITIONS))}

    def get_classifier(self) -> nn.Module:
        """Return the last layer; raise `ConfigError` where there are feature maps instead."""
        self._refuse_maps()
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """
        Put a new last layer in place; 0 classes stand for none.

        Raises `ConfigError` where there are feature maps instead, and for another pooling than "avg".
        """
        self._refuse_maps()
        if global_pool not in (None, "avg"):
            raise ConfigError(f"iTPN averages its tokens: global_pool must be 'avg' or None, got {global_pool!r}")
        self.num_classes = num_classes
        head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head = head.to(self.absolute_pos_embed)

    def _refuse_maps(self) -> None:
        if self.num_outs > 1:
            raise ConfigError(f"this iTPN gives {self.num_outs} feature maps and has no classifier: use num_outs=-1")

    def forward_features(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return tokens ``(B, N, embed_dim)``, or a list of feature maps where `num_outs` asks for these."""
        cells = []  # before each merge: (B, N, 4, 4, C/4), (B, N, 2, 2, C/2)
        x: Tensor = self.patch_embed(images)
        for block in self.blocks[: -self.depth]:
            if isinstance(block, PatchMerge):
                cells.append(x)
            x = block(x)
        x = x.flatten(1, 3) + self.absolute_pos_embed
        for block in self.blocks[-self.depth :]:
            x = block(x, self.relative_position_index)
        return self._forward_pyramid(x, cells) if self.num_outs > 1 else x

    def _forward_pyramid(self, tokens: Tensor, cells: list[Tensor]) -> list[Tensor]:
        x: Tensor = tokens.unflatten(1, (-1, 1, 1))
        levels = [self.align_dim_16tofpn(x)]
        x = self.block_16to8(self.split_16to8(x) + self.align_dim_16to8(cells[1]))
        levels.append(x)
        if self.num_outs > 2:
            levels.append(self.block_8to4(self.split_8to4(x) + self.align_dim_8to4(cells[0])))
        maps = [self._as_map(module(level)) for module, level in zip(self.fpn_modules, levels, strict=True)][::-1]
        while len(maps) < self.num_outs:
            maps.append(F.avg_pool2d(maps[-1], 2, 2))
        return maps

    def _as_map(self, cells: Tensor) -> Tensor:
        """Lay the patches out as a map: ``(B, N, h, h, C) -> (B, C, grid * h, grid * h)``."""
        patches: Tensor = cells.unflatten(1, (self.grid, self.grid))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).contiguous()

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """
        Return logits ``(B, num_classes)`` of tokens ``(B, N, C)``; pre_logits: return the features ``(B, C)`` instead.
        """
        features: Tensor = self.fc_norm(tokens.mean(dim=1))
        if pre_logits:
            return features
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return logits of images ``(B, in_chans, img_size, img_size)``, or a list of feature maps."""
        features = self.forward_features(images)
        return features if isinstance(features, list) else self.forward_head(features)


def _grid(img_size: int | tuple[int, int], patch_size: int) -> int:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if patch_size < INNER or patch_size % INNER:
        raise ConfigError(f"iTPN cuts patches into 4x4 cells: patch_size is a multiple of 4, not {patch_size}")
    if height != width or height < patch_size or height % patch_size:
        raise ConfigError(f"iTPN takes square images, a multiple of {patch_size} wide, not {height}x{width}")
    return height // patch_size


def _check_blocks(embed_dim: int, num_heads: int, depth: int) -> None:
    if num_heads < 1 or embed_dim % 4 or embed_dim % num_heads or depth < 1:
        raise ConfigError(
            "iTPN needs an embed_dim that 4 and num_heads divide, and a block with attention, not "
            f"embed_dim={embed_dim}, num_heads={num_heads}, depth={depth}"
        )


def _check_outs(num_outs: int, grid: int, rpe: bool) -> None:
    if num_outs not in (-1, 1, 2, 3, 4, 5):
        raise ConfigError(f"num_outs is -1 for a classifier or 2 to 5 for that many feature maps, not {num_outs}")
    if num_outs > 3 and rpe:
        raise ConfigError(f"num_outs={num_outs} has strides beyond the patch, which iTPN has with rpe=False only")
    if num_outs > 3 and grid < 2 ** (num_outs - 3):
        raise ConfigError(
            f"num_outs={num_outs} needs {2 ** (num_outs - 3)} patches along a side, img_size gives {grid}"
        )


def _relative_position_index(grid: int) -> Tensor:
    """
    Return ``(N, N)``: for each two patches the row of the bias table, ``(dy + grid - 1) (2 grid - 1) + dx + grid - 1``.
    """
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    dy, dx = (c.flatten()[:, None] - c.flatten() + grid - 1 for c in (y, x))
    return dy * (2 * grid - 1) + dx


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: ITPN) -> dict[str, Tensor]:
    """
    Return `state_dict` fitted to the image size of `model`. Loading a state dict into `model` does the same.

    Position embeddings and bias tables of another grid are resized bicubically; the index into the tables is the model's
    own. Other names and shapes are left as they are, and torch refuses them.
    """
    fitted = dict(state_dict)
    _fit_on_load(model, fitted, "")
    return fitted


def _fit_on_load(model: ITPN, state: dict[str, Any], prefix: str, *_: object) -> None:
    if model.relative_position_index is not None:
        state[prefix + INDEX] = _relative_position_index(model.grid)
    for name, parameter in model.named_parameters():
        given = state.get(prefix + name)
        if given is None or given.shape == parameter.shape:
            continue
        if name == POSITIONS and given.ndim == 3 and _is_square(given.shape[1]):
            # The authors scale by a little more than the ratio of the grids, which moves the samples.
            scale = (model.grid + 0.1) / math.isqrt(given.shape[1])
            state[prefix + name] = _resize(given[0], scale_factor=scale)[None]
        elif name.endswith(TABLE) and given.ndim == 2 and _is_square(given.shape[0]):
            state[prefix + name] = _resize(given, size=2 * model.grid - 1)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _resize(rows: Tensor, **target: Any) -> Tensor:
    """Resize a square map with rows ``(M, C)`` bicubically; `target` are arguments of `F.interpolate`."""
    side = math.isqrt(len(rows))
    maps = F.interpolate(rows.float().T.reshape(1, -1, side, side), mode="bicubic", **target)
    return maps[0].flatten(1).T.to(rows.dtype)


_DATA = {
    "input_size": (3, 224, 224),
    "num_classes": 1000,
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
# No weights to download: the authors' are given as a checkpoint file.
default_cfgs = generate_default_cfgs({"itpn_base": _DATA, "itpn_large": _DATA})


def _build(name: str, pretrained: bool, architecture: dict[str, Any], options: dict[str, Any]) -> ITPN:
    if options.pop("features_only", False):
        raise ConfigError(f"{name} has no features_only: num_outs=2 to 5 makes it return that many feature maps")
    model: ITPN = build_model_with_cfg(
        ITPN, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**architecture, **options}
    )
    return model


@register_model  # type: ignore[untyped-decorator]
def itpn_base(pretrained: bool = False, **options: Any) -> ITPN:
    """
    Build iTPN-B, 78.6 M parameters: 512 wide, 8 heads, 3 + 3 MLP blocks and 24 attention blocks.

    options: arguments of `ITPN`. There are no weights for `pretrained` to download.
    """
    return _build("itpn_base", pretrained, {"embed_dim": 512, "mlp_depth": 3, "depth": 24, "num_heads": 8}, options)


@register_model  # type: ignore[untyped-decorator]
def itpn_large(pretrained: bool = False, **options: Any) -> ITPN:
    """
    Build iTPN-L, 288.5 M parameters: 768 wide, 12 heads, 2 + 2 MLP blocks and 40 attention blocks.

    options: arguments of `ITPN`. There are no weights for `pretrained` to download.
    """
    return _build("itpn_large", pretrained, {"embed_dim": 768, "mlp_depth": 2, "depth": 40, "num_heads": 12}, options)
