"""The vision models of Hugging Face's transformers that people quantise, from small configs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.entry import Entry, images


def entries(source: str) -> list[Entry]:
    """Return an entry of each model; the library is imported where one is built."""
    return [
        Entry(source, family, name, partial(_build, name, config), inputs)
        for family, (name, config, inputs) in _MODELS.items()
    ]


def _build(name: str, config: Callable[[Any], Any]) -> nn.Module:
    library = import_module("transformers")
    model: nn.Module = getattr(library, name)(config(library))
    return model


def _packed(batch: int) -> tuple[Tensor, ...]:
    """Return patches ``(B, N, K)``, the mask of those that are there ``(B, N)`` and sizes in patches ``(B, 2)``."""
    return torch.randn(batch, 16, 192), torch.ones(batch, 16, dtype=torch.long), torch.tensor([[4, 4]] * batch)


_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 32,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
_SAM: dict[str, Any] = {
    "hidden_size": 64,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
    "mlp_dim": 128,
    "num_pos_feats": 16,
}


def _depth_anything(hf: Any) -> Any:
    backbone = hf.Dinov2Config(
        **{**_VIT, "image_size": 56, "patch_size": 14},
        out_indices=[1, 2],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=64,
        patch_size=14,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[16, 32],
        fusion_hidden_size=16,
        head_in_index=-1,
        head_hidden_size=8,
    )


def _segformer(hf: Any) -> Any:
    return hf.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 32, 64],
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=32,
    )


def _detr(hf: Any) -> Any:
    backbone = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    return hf.DetrConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
    )


def _rt_detr(hf: Any) -> Any:
    backbone = hf.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return hf.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[32, 32, 64],
        encoder_hidden_dim=32,
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_in_channels=[32, 32, 32],
        num_denoising=0,
    )


def _siglip2(hf: Any) -> Any:
    sizes = {name: size for name, size in _VIT.items() if name != "image_size"}
    return hf.Siglip2VisionConfig(**sizes, num_patches=16)


def _dpt(hf: Any) -> Any:
    return hf.DPTConfig(
        **{**_VIT, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    )


def _pvt(hf: Any) -> Any:
    return hf.PvtV2Config(
        image_size=64, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]
    )


def _vitdet(hf: Any) -> Any:
    sizes = {**_VIT, "image_size": 64}
    return hf.VitDetConfig(**sizes, pretrain_image_size=32, window_block_indices=[0], window_size=4)


# The class, its config, and the inputs it takes.
_SMALL, _LARGE = partial(images, size=32), partial(images, size=64)
_MODELS: dict[str, tuple[str, Callable[[Any], Any], Callable[[int], tuple[Tensor, ...]]]] = {
    "ViT": ("ViTForImageClassification", lambda hf: hf.ViTConfig(**_VIT), _SMALL),
    "DeiT": ("DeiTForImageClassificationWithTeacher", lambda hf: hf.DeiTConfig(**_VIT), _SMALL),
    "DINOv2": ("Dinov2ForImageClassification", lambda hf: hf.Dinov2Config(**_VIT), _SMALL),
    "DINOv2 (registers)": ("Dinov2WithRegistersModel", lambda hf: hf.Dinov2WithRegistersConfig(**_VIT), _SMALL),
    "DINOv2 (SwiGLU)": ("Dinov2Model", lambda hf: hf.Dinov2Config(**_VIT, use_swiglu_ffn=True), _SMALL),
    "DINOv3": ("DINOv3ViTModel", lambda hf: hf.DINOv3ViTConfig(**_VIT), _SMALL),
    "BEiT": ("BeitForImageClassification", lambda hf: hf.BeitConfig(**_VIT, use_relative_position_bias=True), _SMALL),
    "Swin": ("SwinForImageClassification", lambda hf: hf.SwinConfig(**_WINDOWS), _SMALL),
    "SwinV2": ("Swinv2ForImageClassification", lambda hf: hf.Swinv2Config(**_WINDOWS), _SMALL),
    "CLIP": ("CLIPVisionModelWithProjection", lambda hf: hf.CLIPVisionConfig(**_VIT, projection_dim=32), _SMALL),
    "SigLIP": ("SiglipVisionModel", lambda hf: hf.SiglipVisionConfig(**_VIT), _SMALL),
    "SigLIP2": ("Siglip2VisionModel", _siglip2, _packed),
    "Depth Anything": ("DepthAnythingForDepthEstimation", _depth_anything, partial(images, size=56)),
    "SegFormer": ("SegformerForSemanticSegmentation", _segformer, _LARGE),
    "DETR": ("DetrForObjectDetection", _detr, _LARGE),
    "RT-DETR": ("RTDetrForObjectDetection", _rt_detr, _LARGE),
    "SAM": ("SamVisionModel", lambda hf: hf.SamVisionConfig(**_SAM), _LARGE),
    "ViTDet": ("VitDetModel", _vitdet, _LARGE),
    "YOLOS": (
        "YolosForObjectDetection",
        lambda hf: hf.YolosConfig(**{**_VIT, "image_size": [32, 32]}, num_detection_tokens=5),
        _SMALL,
    ),
    "DPT": ("DPTForDepthEstimation", _dpt, _SMALL),
    "PVT v2": ("PvtV2ForImageClassification", _pvt, _LARGE),
    "Hiera": (
        "HieraModel",
        lambda hf: hf.HieraConfig(embed_dim=16, image_size=[64, 64], depths=[1, 1, 1, 1]),
        _LARGE,
    ),
}
