"""A small cell through pytest-benchmark: ``pytest bench/latency``."""

from __future__ import annotations

from typing import Any

import pytest

from bench.latency.cells import make_subject
from fxquant.benchmark.competitors import COMPETITORS


@pytest.mark.parametrize("name", ["fp32", "fxquant"])
def test_latency(benchmark: Any, name: str) -> None:
    """Time one form of a small ViT with pytest-benchmark."""
    subject, images = make_subject("vit_tiny_patch16_224", 1, img_size=64, depth=2)
    competitor = next(c for c in COMPETITORS if c.name == name)
    benchmark(competitor.build(subject, images).run)
