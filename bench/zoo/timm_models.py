"""A variant of each transformer family of timm, and of its hybrids with convolutions: few blocks, small images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from torch import nn

from bench.zoo.entry import Entry, images


@dataclass(frozen=True)
class SmallModel:
    """A model of timm by name, the side of its images in pixels, and what else `timm.create_model` is given."""

    name: str
    size: int
    options: dict[str, Any]


def variant(name: str, size: int = 64, **options: Any) -> SmallModel:
    """Return the variant `name` on images of `size` pixels, or of `img_size` where the model has that option."""
    return SmallModel(name, options.get("img_size", size), options)


FAMILIES: dict[str, SmallModel] = {
    "ViT": variant("vit_tiny_patch16_224", img_size=64, depth=3),
    "ViT (register tokens)": variant("vit_little_patch16_reg4_gap_256", img_size=64, depth=3),
    "ViT (parallel blocks)": variant("vit_small_patch16_18x2_224", img_size=64, depth=3),
    "ViT (parallel scaling)": variant("vit_pwee_patch16_reg1_gap_256", img_size=64, depth=3),
    "ViT (differential attention)": variant("vit_dwee_patch16_reg1_gap_256", img_size=64, depth=3),
    "ViT (rotary)": variant("vit_small_patch16_rope_224", img_size=64, depth=3),
    "ViT (rotary, mixed)": variant("vit_small_patch16_rope_mixed_224", img_size=64, depth=3),
    "ViT (DINOv2)": variant("vit_small_patch14_dinov2", img_size=64, depth=3),
    "ViT (SigLIP)": variant("vit_base_patch16_siglip_224", img_size=64, depth=3),
    "ViT (CLIP)": variant("vit_base_patch32_clip_224", img_size=64, depth=3),
    "ViT relpos": variant("vit_relpos_small_patch16_224", img_size=64, depth=3),
    "ViT SAM": variant("samvit_base_patch16_224", img_size=64, depth=3),
    "ViT hybrid": variant("vit_tiny_r_s16_p8_224", img_size=64, depth=3),
    "FlexiViT": variant("flexivit_small", img_size=64, depth=3),
    "AIMv2": variant("aimv2_large_patch14_224", img_size=64, depth=3),
    "NaFlexViT": variant("naflexvit_base_patch16_gap", img_size=64, depth=3),
    "ViTamin": variant("vitamin_small_224", img_size=64, depth=3),
    "DeiT": variant("deit_tiny_patch16_224", img_size=64, depth=3),
    "DeiT distilled": variant("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
    "DeiT-3": variant("deit3_small_patch16_224", img_size=64, depth=3),
    "BEiT": variant("beit_base_patch16_224", img_size=64, depth=3),
    "BEiTv2": variant("beitv2_base_patch16_224", img_size=64, depth=3),
    "BEiT-3": variant("beit3_base_patch16_224", img_size=64, depth=3),
    "EVA": variant("eva02_tiny_patch14_224", img_size=64, depth=3),
    "Perception Encoder": variant("vit_pe_core_tiny_patch16_384", img_size=64, depth=3),
    "DINOv3": variant("vit_small_patch16_dinov3", img_size=64, depth=3),
    "Qwen3 ViT": variant("qwen3_vit_88m", img_size=64, depth=3),
    "Gemma 4 ViT": variant("gemma4_vit_167m", img_size=64, depth=3),
    "DeepSeek ViT": variant("deepseek_vit_412m", img_size=112, depth=3),
    "Swin": variant("swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1)),
    "Swin S3": variant("swin_s3_tiny_224", img_size=64, depths=(1, 1, 1, 1)),
    "SwinV2": variant("swinv2_tiny_window8_256", img_size=64, depths=(1, 1, 1, 1)),
    "SwinV2 CR": variant("swinv2_cr_tiny_ns_224", img_size=64, depths=(1, 1, 1, 1)),
    "iTPN": variant("itpn_base", img_size=64, depth=3),
    "CaiT": variant("cait_xxs24_224", img_size=64, depth=3),
    "PiT": variant("pit_ti_224", img_size=64, depth=(1, 1, 1)),
    "PVTv2": variant("pvt_v2_b0", depths=(1, 1, 1, 1)),
    "PVTv2 (linear)": variant("pvt_v2_b2_li", depths=(1, 1, 1, 1)),
    "DaViT": variant("davit_tiny", depths=(1, 1, 1, 1)),
    "GCViT": variant("gcvit_xxtiny", img_size=64),
    "XCiT": variant("xcit_nano_12_p16_224", img_size=64, depth=3),
    "Hiera": variant("hiera_tiny_224", img_size=64, stages=(1, 1, 1, 1)),
    "Hiera (SAM 2)": variant("sam2_hiera_tiny", stages=(1, 1, 1, 1)),
    "MobileViT": variant("mobilevit_xxs", img_size=64),
    "MobileViTv2": variant("mobilevitv2_050", img_size=64),
    "MaxViT": variant("maxvit_tiny_tf_224", img_size=64, depths=(1, 1, 1, 1)),
    "MaxViT (relative MLP)": variant("maxvit_rmlp_pico_rw_256", img_size=64, depths=(1, 1, 1, 1)),
    "CoAtNet": variant("coatnet_nano_rw_224", img_size=64, depths=(1, 1, 1, 1)),
    "Twins": variant("twins_pcpvt_small", img_size=64, depths=(1, 1, 1, 1)),
    "Twins SVT": variant("twins_svt_small", img_size=64, depths=(1, 1, 1, 1)),
    "LeViT": variant("levit_128s", img_size=64, depth=(1, 1, 1)),
    "TinyViT": variant("tiny_vit_5m_224", depths=(1, 1, 1, 1)),
    "MViTv2": variant("mvitv2_tiny", img_size=64),
    "NeXtViT": variant("nextvit_small"),
    "EfficientFormer": variant("efficientformer_l1", img_size=224, depths=(1, 1, 1, 1)),
    "EfficientFormerV2": variant("efficientformerv2_s0", img_size=64, depths=(1, 1, 1, 1)),
    "FastViT": variant("fastvit_t8", layers=(1, 1, 1, 1)),
    "FastViT (MobileCLIP)": variant("fastvit_mci0", layers=(1, 1, 1, 1)),
    "EdgeNeXt": variant("edgenext_xx_small", depths=(1, 1, 1, 1)),
    "CrossViT": variant("crossvit_tiny_240"),
    "ConViT": variant("convit_tiny", img_size=64, depth=3),
    "VOLO": variant("volo_d1_224", img_size=64),
    "TNT": variant("tnt_s_legacy_patch16_224", img_size=64, depth=3),
    "NesT": variant("nest_tiny", img_size=64),
    "CoaT": variant("coat_tiny", img_size=64),
    "CoaT-Lite": variant("coat_lite_tiny", img_size=64),
    "FocalNet": variant("focalnet_tiny_srf"),
    "RepViT": variant("repvit_m0_9", img_size=64, depth=(1, 1, 1, 1)),
    "SwiftFormer": variant("swiftformer_xs", img_size=64, layers=(1, 1, 1, 1)),
    "SHViT": variant("shvit_s1", depth=(1, 1, 1, 1)),
    "LowFormer": variant("lowformer_b0"),
    "CSATv2": variant("csatv2"),
    "EfficientViT (MIT)": variant("efficientvit_b0", depths=(1, 1, 1, 1, 1)),
    "EfficientViT (MSRA)": variant("efficientvit_m0", img_size=64, depth=(1, 1, 1, 1)),
    "EfficientViM": variant("efficientvim_m1", depths=(1, 1, 1)),
    "CPUBone": variant("cpubone_nano"),
    "MobileNetV4 hybrid": variant("mobilenetv4_hybrid_medium"),
    "PoolFormer": variant("poolformer_s12"),
    "CAFormer": variant("caformer_s18"),
    "Sequencer": variant("sequencer2d_s", img_size=64, layers=(1, 1, 1, 1)),
    "Visformer": variant("visformer_tiny", img_size=64, depth=3),
    "BoTNet": variant("botnet26t_256", img_size=64),
    "Halo": variant("halonet26t", img_size=256),
    "LambdaNet": variant("lambda_resnet26t", img_size=64),
    "MLP-Mixer": variant("mixer_s32_224", img_size=64),
    "ConvMixer": variant("convmixer_768_32"),
    "InceptionNeXt": variant("inception_next_atto", depths=(1, 1, 1, 1)),
    "InceptionTransformer": variant("iformer_t"),
    "StarNet": variant("starnet_s1", depths=(1, 1, 1, 1)),
    "MambaOut": variant("mambaout_femto", depths=(1, 1, 1, 1)),
}


def entries(source: str, **options: Any) -> list[Entry]:
    """Return an entry of each family, made with further `options` of `timm.create_model`."""
    return [
        Entry(source, family, v.name, partial(_build, v, options), partial(images, size=v.size))
        for family, v in FAMILIES.items()
    ]


def _build(chosen: SmallModel, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = timm.create_model(chosen.name, **chosen.options, **options)
    return model
