"""What a graph makes of single images: the norm of each token, and where each head of attention looks."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, fx

from fxquant.graph.calls import arguments_of, operator_name
from fxquant.graph.inputs import batch_size
from fxquant.graph.meta import module_path
from fxquant.inspection.links import result_of
from fxquant.inspection.run_nodes import real_value, run_nodes

# Tokens that stand for no place in the image, such as the class and registers.
_MOST_PREFIXES = 8
_FUSED = ("attention", "attention_quantize", "cpu_attention")
_SIDE = 160  # pixels of a thumbnail


@dataclass(frozen=True)
class TokenMap:
    """
    A number for each token of each image, ``(B, N)``, or for each head and token, ``(B, H, N)``.

    grid: rows and columns of the tokens in the image. prefixes: how many tokens stand before those.
    """

    values: Tensor
    grid: tuple[int, int]
    prefixes: int


@dataclass
class ImageMaps:
    """norms: of the tokens behind each residual addition, by node. attention: of the class token, or the mean, by module."""

    norms: dict[fx.Node, TokenMap] = field(default_factory=dict)
    attention: dict[str, TokenMap] = field(default_factory=dict)


def image_maps(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> ImageMaps:
    """Return the maps of `gm` for the images of one batch; what has no row for each image, such as windows, has none."""
    maps, images, patches = ImageMaps(), batch_size(inputs), None
    for node, values in run_nodes(gm, inputs):
        result = result_of(node)
        if result == "conv2d" and patches is None:
            patches = _last_axes(values[node])
        if patches is None:
            continue
        if result == "add":
            found = _norms(real_value(node, values[node]), images, patches)
            if found is not None:
                maps.norms[node] = found
        elif result in ("softmax", "attention"):
            attention = _attention(node, values)
            if attention is not None and attention.dim() == 4 and len(attention) == images:
                placed = _placed(attention.shape[-1], patches)
                if placed is not None:
                    rows = attention[:, :, 0] if placed[1] else attention.mean(2)
                    maps.attention[module_path(node)] = TokenMap(rows.float().cpu(), *placed)
    return maps


def thumbnails(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> list[bytes]:
    """Return JPEG files of images ``(B, C, H, W)`` that were normalised by `mean` and `std`; None: brought to 0..1."""
    pixels = images.detach().float().cpu()
    if mean is not None and std is not None and len(mean) == pixels.shape[1]:
        pixels = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    else:
        low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
        pixels = (pixels - low) / (high - low).clamp(min=1e-12)
    return [_jpeg(image) for image in pixels.clamp(0, 1)]


def _jpeg(image: Tensor) -> bytes:
    colours = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    drawn = Image.fromarray((colours.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    drawn.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=80)
    return file.getvalue()


def _last_axes(value: Tensor) -> tuple[int, int]:
    return int(value.shape[-2]), int(value.shape[-1])


def _norms(value: Tensor | None, images: int, patches: tuple[int, int]) -> TokenMap | None:
    if value is None or len(value) != images:
        return None
    if value.dim() == 4 and value.shape[1] <= patches[0] and value.shape[2] <= patches[1]:  # (B, h, w, C), as in Swin
        return TokenMap(value.float().norm(dim=-1).flatten(1).cpu(), (value.shape[1], value.shape[2]), 0)
    placed = _placed(value.shape[1], patches) if value.dim() == 3 else None
    return None if placed is None else TokenMap(value.float().norm(dim=-1).cpu(), *placed)


def _placed(tokens: int, patches: tuple[int, int]) -> tuple[tuple[int, int], int] | None:
    """Return the grid of `tokens` and how many stand before it: that of the patches, halved until it fits."""
    height, width = patches
    while height * width > tokens and height > 1 and width > 1:
        height, width = height // 2, width // 2
    prefixes = tokens - height * width
    return ((height, width), prefixes) if 0 <= prefixes <= _MOST_PREFIXES else None


def _attention(node: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor | None:
    """Return the probabilities ``(B, H, N, M)`` of attention, None where `node` does not show them."""
    if result_of(node) == "softmax":
        found = values[node]
        return found if isinstance(found, Tensor) and found.is_floating_point() else None
    name = operator_name(node)
    if node.target is F.scaled_dot_product_attention:
        q, k = (values[a] for a in node.args[:2] if isinstance(a, fx.Node))
        mask = _given(node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask"), values)
        factor = node.kwargs.get("scale") or 1 / math.sqrt(q.shape[-1])
        return _probabilities(q, k, float(factor), mask)  # type: ignore[arg-type]
    if name not in _FUSED:
        return None
    given = arguments_of(node)
    factor = given["scale"] if name == "cpu_attention" else given["factor"]
    return _probabilities(values[given["q"]], values[given["k"]], float(factor), _given(given["bias"], values))


def _given(value: object, values: Mapping[fx.Node, Any]) -> Any:
    return values[value] if isinstance(value, fx.Node) else value


def _probabilities(q: Tensor, k: Tensor, factor: float, addend: Tensor | None) -> Tensor:
    scores = q.float() @ k.float().mT * factor
    if addend is not None and addend.dtype is torch.bool:
        scores = scores.masked_fill(~addend, -math.inf)
    elif addend is not None:
        scores = scores + addend
    return scores.softmax(-1)
