"""Glyphs for a pretrained ViT: as light as they were, and in one split each."""

from __future__ import annotations

import pytest
import torch

from bench.real import glyph_images
from bench.real.glyph_images import enlarge, load_glyph_images
from bench.standins.glyphs import MEAN, STD, Glyphs
from fxquant.errors import InputError


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images whose label is their number."""
    glyphs = Glyphs(torch.randn(10, 1, 32, 32), torch.arange(10))
    monkeypatch.setattr(glyph_images, "load_part", lambda *_: glyphs)


def test_images_are_grey_between_black_and_white() -> None:
    grey = torch.tensor([-1.0, 0.25, 2.0]).view(3, 1, 1, 1).expand(3, 1, 32, 32)
    images = enlarge((grey - MEAN) / STD, 28)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(images * std + mean, grey.clamp(0, 1)[:, :, :28, :28].expand(-1, 3, -1, -1))


@pytest.mark.usefixtures("numbered")
def test_splits_share_no_image() -> None:
    first, second = (load_glyph_images("test", 28, 5, split) for split in (0, 1))
    assert first.images.shape == (5, 3, 28, 28)
    assert sorted([*first.labels.tolist(), *second.labels.tolist()]) == list(range(10))
    assert first.labels.tolist() != sorted(first.labels.tolist())


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize(("count", "split"), [(0, 0), (5, 2), (11, 0), (1, -1)])
def test_splits_that_are_not_there_are_refused(count: int, split: int) -> None:
    with pytest.raises(InputError, match="among 10 images"):
        load_glyph_images("test", 28, count, split)
