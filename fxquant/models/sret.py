"""
SReT: a Vision Transformer in three stages that applies each attention block twice, within slices of the tokens.

"Sliced Recursive Transformer", Shen et al., ECCV 2022. Parameters have the names they have in the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from fxquant.errors import ConfigError, InputError
from fxquant.models.sret_blocks import Permutation, Pool, SReTAttention, SReTBlock, SReTStage, Stem, layer_norm

STRIDE = 8  # of the stem


class SReT(nn.Module):
    """
    SReT for images of one size, as a classifier.

    A stem makes tokens of 8x8 pixels. Stage s applies ``recursive_num[s]`` attention blocks, each
    ``depth[s] / recursive_num[s]`` times in a row, and a projection of its own after each application; a convolution between
    stages quarters the tokens. Applications take turns: one attends within ``groups1[s]`` slices of the tokens as they come,
    the next within ``groups2[s]`` slices of the tokens in a random order, where that is more than one.

    In training the orders are drawn at each forward, from torch's random state. In evaluation they stay as `permutation_seed`
    gives them, or `set_permutations`, so that equal images get equal logits.

    Parameters
    ----------
    image_size, img_size
        Side of the images, or two equal sides; a multiple of 8. 224 by default. The second is timm's name for the first.
    base_dims, heads, depth, recursive_num, groups1, groups2
        One number for each stage. Stage s is ``base_dims[s] * heads[s]`` wide. One slice, everywhere, is SReT without slices.
    mlp_ratio, np_mlp_ratio
        Hidden width of the MLPs in the blocks and in the projections, rounded down.
    drop_path_rate
        Stochastic depth in training: 0 in the first block, linearly more in those after it, to less than this rate.
    permutation_seed
        Decides the orders of evaluation.

    Raises `ConfigError` for arguments that do not fit together.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] | None = None,
        base_dims: Sequence[int] = (32, 32, 32),
        heads: Sequence[int] = (2, 4, 8),
        depth: Sequence[int] = (4, 10, 6),
        recursive_num: Sequence[int] = (2, 5, 3),
        num_classes: int = 1000,
        groups1: Sequence[int] = (8, 4, 1),
        groups2: Sequence[int] = (2, 1, 1),
        mlp_ratio: float = 3.6,
        np_mlp_ratio: float = 1.0,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        permutation_seed: int = 0,
        img_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        stages = len(depth)
        _check_stages(base_dims, heads, depth, recursive_num, groups1, groups2)
        sides = [_side(image_size, img_size)]
        for _ in range(stages - 1):
            sides.append((sides[-1] + 1) // 2)
        dims = [width * count for width, count in zip(base_dims, heads, strict=True)]
        slices = list(zip(groups1, groups2, strict=True))
        _check_slices(sides, dims, slices)

        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.embed_dim = dims[-1]
        self.patch_embed = Stem(in_chans, dims[0])
        self.pos_embed = nn.Parameter(trunc_normal_(torch.zeros(1, dims[0], sides[0], sides[0]), std=0.02))
        generator = np.random.RandomState(permutation_seed)
        self.transformers, self.pools = nn.ModuleList(), nn.ModuleList()
        for s in range(stages):
            rates = [drop_path_rate * (sum(depth[:s]) + i) / sum(depth) for i in range(recursive_num[s])]
            blocks = [SReTBlock(dims[s], heads[s], mlp_ratio, rate) for rate in rates]
            self.transformers.append(
                SReTStage(blocks, depth[s], sides[s] ** 2, dims[s], slices[s], np_mlp_ratio, generator)
            )
            if s + 1 < stages:
                self.pools.append(Pool(sides[s], dims[s], dims[s + 1]))
        self.norm = layer_norm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        self.register_load_state_dict_pre_hook(_complete_on_load)  # type: ignore[no-untyped-call]

    def set_permutations(self, orders: Iterable[Tensor]) -> None:
        """
        Use these orders of the tokens in evaluation, one ``(N,)`` for each place in the model, from first to last.

        Raises `InputError` where the number of orders, or the number of tokens in one, is not the model's.
        """
        given = list(orders)
        wanted = [module for module in self.modules() if isinstance(module, Permutation)]
        if len(given) != len(wanted):
            raise InputError(f"expected {len(wanted)} permutations, found {len(given)}")
        for module, order in zip(wanted, given, strict=True):
            module.assign(order)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that weight decay should leave alone."""
        return {"pos_embed"}

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer in place; 0 classes stand for none."""
        self.num_classes = num_classes
        head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head = head.to(self.pos_embed)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the tokens ``(B, N, embed_dim)`` of the last stage."""
        x: Tensor = (self.patch_embed(images) + self.pos_embed).flatten(2).transpose(1, 2)
        x = self.transformers[0](x)
        for pool, stage in zip(self.pools, self.transformers[1:], strict=True):
            x = stage(pool(x))
        return x

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """
        Return logits ``(B, num_classes)`` of tokens ``(B, N, C)``; pre_logits: return the features ``(B, C)`` instead.
        """
        features: Tensor = self.norm(tokens.mean(dim=1))
        if pre_logits:
            return features
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images ``(B, in_chans, image_size, image_size)``."""
        return self.forward_head(self.forward_features(images))


def _side(image_size: int | tuple[int, int] | None, img_size: int | tuple[int, int] | None) -> int:
    """Return the number of tokens along a side of the first stage."""
    sizes = [
        (size, size) if isinstance(size, int) else tuple(size) for size in (image_size, img_size) if size is not None
    ]
    if len(set(sizes)) > 1:
        raise ConfigError(f"image_size and img_size are two names of one number, not {image_size} and {img_size}")
    height, width = sizes[0] if sizes else (224, 224)
    if height != width or height < STRIDE or height % STRIDE:
        raise ConfigError(f"SReT takes square images, a multiple of {STRIDE} wide, not {height}x{width}")
    return height // STRIDE


def _check_stages(*given: Sequence[int]) -> None:
    base_dims, _, depth, recursive_num, _, _ = given
    if len({len(numbers) for numbers in given}) > 1 or not depth or min(map(min, given)) < 1:
        raise ConfigError(
            "SReT needs base_dims, heads, depth, recursive_num, groups1 and groups2 as positive numbers, one for each stage, "
            f"not {', '.join(str(list(numbers)) for numbers in given)}"
        )
    for times, blocks in zip(depth, recursive_num, strict=True):
        if times % blocks:
            raise ConfigError(
                f"each of recursive_num={blocks} blocks is applied equally often: {blocks} must divide {times}"
            )
    if base_dims[0] * given[1][0] < 2:
        raise ConfigError("the first stage of SReT is at least 2 wide")


def _check_slices(sides: list[int], dims: list[int], slices: list[tuple[int, int]]) -> None:
    for s, (side, groups) in enumerate(zip(sides, slices, strict=True)):
        if any(side**2 % count for count in groups):
            raise ConfigError(
                f"stage {s} has {side}x{side} tokens, which groups1={groups[0]} or groups2={groups[1]} does not divide"
            )
    for width, following in pairwise(dims):
        if following % width:
            raise ConfigError(f"a stage is a multiple as wide as the one before: {width} does not divide {following}")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: SReT) -> dict[str, Tensor]:
    """
    Return `state_dict` with the names of `model`. Loading a state dict into `model` does the same.

    A block that is applied several times may have its tensors at one of its positions, or at all. Separate `proj_q`,
    `proj_k` and `proj_v` are joined to `qkv`. Other names and shapes are left as they are, and torch refuses them.
    """
    completed = dict(state_dict)
    _complete_on_load(model, completed, "")
    return completed


def _complete_on_load(model: SReT, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
    positions: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, SReTAttention):
            _join(state, f"{prefix}{name}.")
        elif isinstance(module, SReTBlock):
            positions.setdefault(module, []).append(f"{prefix}{name}.")
    problems: list[str] = []
    for block, names in positions.items():
        for key in block.state_dict():
            _share(state, [name + key for name in names], problems)
    if arguments:  # called by torch, which reports its list of problems
        arguments[-1].extend(problems)


def _join(state: dict[str, Any], name: str) -> None:
    for kind in ("weight", "bias"):
        parts, whole = [f"{name}proj_{letter}.{kind}" for letter in "qkv"], f"{name}qkv.{kind}"
        if whole not in state and all(part in state for part in parts):
            state[whole] = torch.cat([state.pop(part) for part in parts])


def _share(state: dict[str, Any], keys: list[str], problems: list[str]) -> None:
    """Give each of `keys` the tensor that some of them have."""
    given = [key for key in keys if key in state]
    if not given:
        return
    for other in given[1:]:
        if state[other].shape != state[given[0]].shape or not torch.equal(state[other], state[given[0]]):
            problems.append(f"{given[0]} and {other} are one tensor of this model, but two in the checkpoint.")
    for key in keys:
        state.setdefault(key, state[given[0]])


_DATA = {
    "input_size": (3, 224, 224),
    "num_classes": 1000,
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "first_conv": "patch_embed.conv1",
    "classifier": "head",
}
# No weights to download: the authors' are given as a checkpoint file.
default_cfgs = generate_default_cfgs({"sret_t": _DATA, "sret_lt": _DATA, "sret_s": _DATA})


def _build(name: str, pretrained: bool, architecture: dict[str, Any], options: dict[str, Any]) -> SReT:
    if options.get("features_only"):
        raise ConfigError(
            f"{name} has no features_only: it is a classifier; num_classes=0 makes it return its features"
        )
    if "image_size" in options:  # else timm adds its default to it
        options.setdefault("img_size", options["image_size"])
    model: SReT = build_model_with_cfg(
        SReT, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**architecture, **options}
    )
    return model


@register_model  # type: ignore[untyped-decorator]
def sret_t(pretrained: bool = False, **options: Any) -> SReT:
    """
    Build SReT-T, 4.8 M parameters: 64, 128, 256 wide with MLPs 3.6 times as wide.

    options: arguments of `SReT`. There are no weights for `pretrained` to download.
    """
    return _build("sret_t", pretrained, {"mlp_ratio": 3.6, "drop_path_rate": 0.1}, options)


@register_model  # type: ignore[untyped-decorator]
def sret_lt(pretrained: bool = False, **options: Any) -> SReT:
    """
    Build SReT-LT, 5.0 M parameters: 64, 128, 256 wide with MLPs 4 times as wide.

    options: arguments of `SReT`. The authors' weights were trained with ``groups1=(16, 14, 1), groups2=(1, 1, 1)``, which are
    not the defaults of their code nor of this model. There are no weights for `pretrained` to download.
    """
    return _build("sret_lt", pretrained, {"mlp_ratio": 4.0, "drop_path_rate": 0.1}, options)


@register_model  # type: ignore[untyped-decorator]
def sret_s(pretrained: bool = False, **options: Any) -> SReT:
    """
    Build SReT-S, 20.9 M parameters: 126, 252, 504 wide with MLPs 3 times, projections 2 times as wide.

    options: arguments of `SReT`. There are no weights for `pretrained` to download.
    """
    wide = {"base_dims": (42, 42, 42), "heads": (3, 6, 12), "mlp_ratio": 3.0, "np_mlp_ratio": 2.0}
    return _build("sret_s", pretrained, {**wide, "drop_path_rate": 0.2}, options)
