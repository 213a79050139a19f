"""`extract_patches` and a product equal a convolution of the codes, exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import extract_patches

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))


@settings(max_examples=150)
@given(
    kernel=pairs,
    stride=pairs,
    padding=paddings,
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    unsigned=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_windows_times_weight_is_a_convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    batch: int,
    channels: int,
    unsigned: bool,
    affine: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = (0, 255) if unsigned else (-128, 127)
    offset = storage_offset(qmax)
    zero_point = torch.randint(qmin, qmax + 1, (), generator=generator, dtype=torch.int32) if affine else None
    values = torch.randint(qmin, qmax + 1, (batch, channels, *size), generator=generator)
    weight = torch.randint(-128, 128, (5, channels, *kernel), generator=generator)
    patches = extract_patches((values - offset).to(torch.int8), kernel, stride, padding, zero_point, qmax)
    assert patches.dtype is torch.int8
    zero = 0 if zero_point is None else int(zero_point)
    found = (patches.long() + offset - zero) @ weight.flatten(1).T
    expected = F.conv2d((values - zero).double(), weight.double(), None, stride, padding)
    assert torch.equal(found.permute(0, 3, 1, 2).double(), expected)


@pytest.mark.parametrize(
    ("zero_point", "qmax", "stored"), [(None, 127, 0), (None, 255, -128), (7, 15, 7), (200, 255, 72)]
)
def test_padding_holds_the_code_of_zero(zero_point: int | None, qmax: int, stored: int) -> None:
    codes = torch.full((1, 1, 2, 2), 3, dtype=torch.int8)
    zero = None if zero_point is None else torch.tensor(zero_point, dtype=torch.int32)
    patches = extract_patches(codes, (4, 4), (1, 1), (1, 1), zero, qmax).view(4, 4)
    assert patches[1:3, 1:3].unique().tolist() == [3]
    assert patches[0].unique().tolist() == [stored]
    assert patches[:, 3].unique().tolist() == [stored]


def test_patches_that_tile_the_image_are_a_reshape_of_it() -> None:
    codes = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).remainder(100).to(torch.int8)
    patches = extract_patches(codes, (2, 3), (2, 3), (0, 0), None, 127)
    assert patches.shape == (2, 2, 2, 18)
    assert torch.equal(patches[1, 0, 1].view(3, 2, 3), codes[1, :, :2, 3:])
