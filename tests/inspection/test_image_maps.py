"""Maps over an image: how large each token is, and where attention looks."""

from __future__ import annotations

import io

import torch
from PIL import Image

import fxquant
from fxquant.inspection.image_maps import image_maps, thumbnails
from tests.support.models import images, small_swin, small_vit


def test_norms_and_attention_of_a_vit_are_those_of_its_values() -> None:
    model, x = small_vit(), images(2)
    maps = image_maps(fxquant.trace(model, x), (x,))
    blocks: list[torch.Tensor] = []
    model.blocks.register_forward_hook(lambda _, __, result: blocks.append(result))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        model(x)
    last = list(maps.norms.values())[-1]
    assert (last.grid, last.prefixes) == ((4, 4), 1)
    torch.testing.assert_close(last.values, blocks[0].norm(dim=-1))
    attention = maps.attention["blocks.1.attn"]
    assert attention.values.shape == (2, 2, 17)
    torch.testing.assert_close(attention.values.sum(-1), torch.ones(2, 2))


def test_attention_is_read_fused_and_opened_float_and_int8() -> None:
    x = images(2)
    traced = fxquant.trace(small_vit(depth=1), x)
    exact = image_maps(traced, (x,)).attention
    assert exact.keys() == {"blocks.0.attn"}
    for opened in (False, True):
        prepared = fxquant.prepare(traced, fxquant.recipe("minmax", attention=opened))
        gm = fxquant.convert(fxquant.calibrate(prepared, [x], progress=False))
        found = image_maps(gm, (x,)).attention["blocks.0.attn"]
        torch.testing.assert_close(found.values, exact["blocks.0.attn"].values, atol=0.03, rtol=0)


def test_windows_have_no_map_and_tokens_in_a_plane_do() -> None:
    x = images(2)
    maps = image_maps(fxquant.trace(small_swin(), x), (x,))
    assert maps.attention == {}
    assert {found.grid for found in maps.norms.values()} == {(16, 16), (8, 8)}


def test_thumbnails_undo_the_normalisation() -> None:
    pixels = torch.zeros(1, 3, 64, 32)
    pixels[:, 0] = 1
    (picture,) = thumbnails((pixels - 0.5) / 0.25, (0.5,) * 3, (0.25,) * 3)
    image = Image.open(io.BytesIO(picture))
    assert image.size == (32, 64)
    red, green, _ = image.getpixel((8, 8))  # type: ignore[misc]
    assert red > 240
    assert green < 15
    (grey,) = thumbnails(torch.linspace(-3, 5, 64).reshape(1, 1, 8, 8), None, None)
    low, high = Image.open(io.BytesIO(grey)).getextrema()[0]  # type: ignore[misc]
    assert low < 5
    assert high > 250
