"""The limit counts every int8 linear layer, at the batch that is measured."""

from __future__ import annotations

import pytest
import torch

import fxquant
from bench import gemm_limit
from tests.support.models import images, small_vit


def test_shapes_of_all_layers() -> None:
    gm = fxquant.quantize(small_vit(depth=1), [images(2)], recipe="minmax")
    shapes = gemm_limit.product_shapes(gm, 6)
    int8 = [r for r in fxquant.report(gm) if r.int8]
    assert len(shapes) == len(int8)
    macs = sum(r.macs or 0 for r in int8)
    assert sum(rows * depth * outputs for rows, depth, outputs in shapes) == 3 * macs


def test_a_small_model() -> None:
    row = gemm_limit.measure("test_vit", 2, 1, img_size=32)
    assert row["threads"] == torch.get_num_threads()
    assert row["share_of_limit"] == pytest.approx(row["limit_ms"] / row["model_ms"], rel=0.2)
    assert row["giga_operations"] >= 0
    assert all(rate > 0 for rate in row["int_mm_giga_operations_per_second"].values())
