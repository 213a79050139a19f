"""Twelve models of four sources are right at every stage, each with what torch's own counter finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.zoo.entries import ENTRIES, TRANSFORMERS
from bench.zoo.walk import is_saved, walk
from tests.support.tiers import keep_quick

# The share of the multiply-accumulates that runs on int8, and what int8 may cost in decibels.
SAMPLE = {
    "timm/ViT": (0.98, 28),
    "timm/CoAtNet": (0.98, 30),
    "timm/PiT": (0.95, 28),
    "timm/LeViT": (0.98, 38),
    "features_only/Swin": (0.94, 28),
    "features_only/PVTv2": (0.94, 25),
    "torchvision/vit_b_16": (0.99, 26),
    "torchvision/mvit_v2_s": (0.95, 25),
    "transformers/DINOv3": (0.93, 30),
    "transformers/SigLIP2": (0.94, 28),
    "transformers/SegFormer": (0.92, 45),
    "transformers/SAM": (0.88, 50),
}


QUICK = ("timm/ViT", "timm/PiT", "features_only/Swin", "torchvision/vit_b_16", "transformers/DINOv3")


@pytest.mark.parametrize("key", keep_quick(SAMPLE, *QUICK))
def test_a_model_of_the_zoo(key: str, tmp_path: Path) -> None:
    entry = ENTRIES[key]
    if entry.source == TRANSFORMERS:
        pytest.importorskip(TRANSFORMERS, reason="Hugging Face's transformers is an extra: pip install 'fxquant[hf]'")
    coverage, decibels = SAMPLE[key]
    row = walk(entry, tmp_path)
    assert "stopped" not in row, row["stopped"]
    assert row["verified"]
    assert row["coverage"] >= coverage
    assert row["sqnr_db"] >= decibels
    assert row["macs"] == row["counted_macs"]
    assert is_saved(tmp_path)
