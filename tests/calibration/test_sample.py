"""A sample is the same few rows of every operand, drawn evenly over all images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant import LayerSpec, PerHead, QuantConfig, ScaleSearch, TensorSpec
from fxquant.calibration.sample import Sample
from fxquant.calibration.sites import Site, find_sites
from fxquant.graph.shapes import propagate_shapes
from tests.support.models import images, small_swin, small_vit

HEADS = TensorSpec(signed=True, symmetric=True, granularity=PerHead())
LAYER = LayerSpec(query=HEADS, key=HEADS, value=HEADS, search=ScaleSearch())


def sites_of(model: Any) -> dict[str, Site]:
    prepared = fxquant.prepare(model, QuantConfig(LAYER, attention=True))
    propagate_shapes(prepared, [images(2)])
    return {site.label: site for site in find_sites(prepared, every=False)}


VIT, SWIN = sites_of(small_vit()), sites_of(small_swin())


def draw(site: Site, count: int, max_rows: int | None, seed: int = 0) -> Sample:
    return Sample.of(site, count, max_rows, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sites", "label", "each"),
    [
        (VIT, "patch_embed.proj", 16),
        (VIT, "blocks.0.attn.qkv", 17),
        (VIT, "blocks.1.mlp.fc2", 17),
        (VIT, "head", 1),
        (SWIN, "layers.0.blocks.0.mlp.fc1", 256),
        (SWIN, "layers.1.blocks.1.attn.qkv", 64),
    ],
)
def test_a_row_of_a_linear_layer_is_a_token(sites: dict[str, Site], label: str, each: int) -> None:
    everything = draw(sites[label], 6, None)
    assert (everything.index, everything.tokens, everything.total) == (None, 6 * each, 6 * each)
    assert draw(sites[label], 6, 6 * each).index is None
    few = draw(sites[label], 6, 5)
    assert few.index is not None
    assert (len(few.index), few.tokens, few.total) == (5, 5, 6 * each)
    assert few.index.tolist() == sorted(set(few.index.tolist()))
    assert int(few.index[0]) >= 0
    assert int(few.index[-1]) < 6 * each


@pytest.mark.parametrize(
    ("sites", "label", "products", "tokens"),
    [(VIT, "blocks.0.attn.qk", 1, 17), (SWIN, "layers.0.blocks.1.attn.pv", 16, 16)],
)
def test_a_row_of_attention_is_a_whole_product(sites: dict[str, Site], label: str, products: int, tokens: int) -> None:
    """Of an image in a ViT, of a window in a Swin."""
    assert draw(sites[label], 6, None).total == 6 * products * tokens
    few = draw(sites[label], 6, 3 * tokens + 1)
    assert few.index is not None
    assert (len(few.index), few.tokens) == (3, 3 * tokens)
    assert draw(sites[label], 6, 1).tokens == tokens, "at least one"


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.sets(st.integers(0, 29)),
    st.integers(0, 3),
)
def test_pieces_give_what_the_whole_gives(lengths: list[int], chosen: set[int], width: int) -> None:
    whole = torch.arange(float(sum(lengths) * width)).reshape(sum(lengths), width)
    index = torch.tensor(sorted(i for i in chosen if i < len(whole)), dtype=torch.int64)
    pieces = whole.split(lengths)
    sample = Sample(index, len(index), len(whole))
    assert torch.equal(sample.take(pieces), whole[index])
    assert torch.equal(Sample(None, len(whole), len(whole)).take(pieces), whole)
    # Pieces may also be taken one by one, each told where it starts.
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    one_by_one = [sample.take([piece], start) for piece, start in zip(pieces, starts, strict=True)]
    assert torch.equal(torch.cat(one_by_one), whole[index])


def test_draws_come_from_the_generator() -> None:
    site = VIT["blocks.0.attn.qkv"]
    one, same, other = (draw(site, 6, 20, seed).index for seed in (0, 0, 1))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_images_take_part_alike() -> None:
    index = draw(VIT["blocks.0.attn.qkv"], 10, 85).index
    assert index is not None
    counts = torch.bincount(index // 17, minlength=10)
    assert int(counts.min()) >= 3
    assert int(counts.max()) <= 14
