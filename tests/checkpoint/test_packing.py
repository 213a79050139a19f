"""Two codes to a byte, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant import CheckpointError
from fxquant.checkpoint.packing import lowest_code, pack, unpack


@settings(max_examples=200, deadline=None)
@given(
    lowest=st.integers(-128, 112),
    offsets=st.lists(st.integers(0, 15), min_size=1, max_size=33),
    columns=st.sampled_from([1, 3]),
)
def test_codes_come_back(lowest: int, offsets: list[int], columns: int) -> None:
    codes = (torch.tensor(offsets) + lowest).to(torch.int8).repeat(columns).reshape(columns, -1)
    found = lowest_code(codes)
    assert found == int(codes.min())
    packed = pack(codes, found)
    assert packed.dtype is torch.uint8
    assert packed.shape == ((codes.numel() + 1) // 2,)
    back = unpack(packed, found, tuple(codes.shape))
    assert back.dtype is torch.int8
    assert torch.equal(back, codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_all_codes_of_four_bits_and_fewer_fit(bits: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.arange(low, low + 2**bits, dtype=torch.int8)
    assert torch.equal(unpack(pack(codes, low), low, (2**bits,)), codes)
    assert lowest_code(codes) == low


def test_the_first_of_a_pair_lies_low() -> None:
    assert pack(torch.tensor([-8, 7, 0], dtype=torch.int8), -8).tolist() == [0xF0, 0x08]


@pytest.mark.parametrize("codes", [[-9, 7], [0, 16], [-128, 127]])
def test_wider_codes_are_not_packed(codes: list[int]) -> None:
    assert lowest_code(torch.tensor(codes, dtype=torch.int8)) is None


def test_other_tensors_are_not_packed() -> None:
    assert lowest_code(torch.zeros(0, dtype=torch.int8)) is None
    assert lowest_code(torch.zeros(4, dtype=torch.uint8)) is None
    assert lowest_code(torch.zeros(4)) is None


@pytest.mark.parametrize(("size", "shape"), [(2, (5,)), (3, (4,)), (2, (2, 3))])
def test_wrong_sizes_are_refused(size: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="do not unpack"):
        unpack(torch.zeros(size, dtype=torch.uint8), -8, shape)
