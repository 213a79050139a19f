"""A ViT of two narrow blocks that timm knows by name, for tests of what is done with a model rather than of models."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

_DATA = {
    "input_size": (3, 224, 224),
    "fixed_input_size": True,
    "num_classes": 1000,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "hf_hub_id": "timm/",
}
default_cfgs = generate_default_cfgs({"two_blocks_vit.untrained": _DATA})


@register_model  # type: ignore[untyped-decorator]
def two_blocks_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Build it for images of one size, as symbolic tracing takes them, which is much quicker than exporting."""
    architecture = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return build_model_with_cfg(VisionTransformer, "two_blocks_vit", pretrained, **{**architecture, **options})
