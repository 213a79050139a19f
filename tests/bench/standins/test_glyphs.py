"""Images that never change, in parts that share none."""

from __future__ import annotations

import pytest
import torch

from bench.standins.glyphs import CHARACTERS, CHUNK, PARTS, load_part
from fxquant.errors import InputError
from tests.support.tiers import keep_quick


@pytest.mark.parametrize("name", keep_quick(PARTS, "test"))
def test_a_part_is_drawn_the_same_every_time_whatever_its_length(name: str) -> None:
    short, long = load_part(name, 70), load_part(name, CHUNK + 1)
    assert tuple(short.images.shape) == (70, 1, 32, 32)
    assert short.images.dtype == torch.float32
    assert short.labels.tolist() == [position % len(CHARACTERS) for position in range(70)]
    assert torch.equal(short.images, long.images[:70])
    assert len(long) == CHUNK + 1


@pytest.mark.long
def test_no_two_parts_and_no_two_chunks_share_an_image() -> None:
    sums = torch.cat([load_part(name, 2 * CHUNK).images.double().sum(dim=(1, 2, 3)) for name in PARTS])
    assert len(sums.unique()) == len(sums) == 6 * CHUNK


def test_the_test_part_resolves_a_tenth_of_a_point() -> None:
    assert PARTS["test"].size >= 10_000
    assert len({part.stream for part in PARTS.values()}) == len(PARTS)


def test_images_are_about_normal() -> None:
    images = load_part("train", 2 * CHUNK).images
    assert images.isfinite().all()
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05


def test_drawing_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    load_part("test", 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "count"), [("valid", None), ("test", 0), ("test", 10**6)])
def test_a_part_that_is_not_there_is_refused(name: str, count: int | None) -> None:
    with pytest.raises(InputError, match=r"unknown part|count must be"):
        load_part(name, count)
