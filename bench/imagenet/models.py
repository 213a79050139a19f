"""The models of the published tables, by the tags of their weights."""

from __future__ import annotations

from bench.imagenet.figure import Model

# The figures are older than some of timm's default tags. These tags are those whose float accuracy, in timm's
# results/results-imagenet.csv, is the published one: ViT-B's default today is augreg2 (85.10) and its first was orig (81.79).
VIT_S32 = Model("ViT-S/32", "vit_small_patch32_224.augreg_in21k_ft_in1k", 75.994)
VIT_S = Model("ViT-S", "vit_small_patch16_224.augreg_in21k_ft_in1k", 81.384)
VIT_B = Model("ViT-B", "vit_base_patch16_224.augreg_in21k_ft_in1k", 84.532)
VIT_B_AUGREG2 = Model("ViT-B augreg2", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 85.096)
VIT_L = Model("ViT-L", "vit_large_patch16_224.augreg_in21k_ft_in1k", 85.834)
VIT_B_384 = Model("ViT-B/384", "vit_base_patch16_384.augreg_in21k_ft_in1k", 85.996)
DEIT_T = Model("DeiT-T", "deit_tiny_patch16_224.fb_in1k", 72.172)
DEIT_S = Model("DeiT-S", "deit_small_patch16_224.fb_in1k", 79.844)
DEIT_B = Model("DeiT-B", "deit_base_patch16_224.fb_in1k", 81.992)
DEIT_B_384 = Model("DeiT-B/384", "deit_base_patch16_384.fb_in1k", 83.106)
SWIN_T = Model("Swin-T", "swin_tiny_patch4_window7_224.ms_in1k", 81.376)
SWIN_S = Model("Swin-S", "swin_small_patch4_window7_224.ms_in1k", 83.208)
SWIN_B = Model("Swin-B", "swin_base_patch4_window7_224.ms_in22k_ft_in1k", 85.272)
SWIN_B_1K = Model("Swin-B 1k", "swin_base_patch4_window7_224.ms_in1k", 83.606)  # FQ-ViT's, trained on 1k alone
SWIN_B_384 = Model("Swin-B/384", "swin_base_patch4_window12_384.ms_in22k_ft_in1k", 86.438)
