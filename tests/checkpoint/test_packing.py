"""Several codes to a byte, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant import CheckpointError
from fxquant.checkpoint.packing import Packing, pack, packing_of, unpack


@settings(max_examples=200, deadline=None)
@given(
    lowest=st.integers(-128, 112),
    bits=st.sampled_from([2, 4]),
    offsets=st.lists(st.integers(0, 15), min_size=1, max_size=33),
    columns=st.sampled_from([1, 3]),
)
def test_codes_come_back(lowest: int, bits: int, offsets: list[int], columns: int) -> None:
    codes = (torch.tensor(offsets) % 2**bits + lowest).to(torch.int8).repeat(columns).reshape(columns, -1)
    found = packing_of(codes)
    assert found is not None
    assert found.lowest == int(codes.min())
    assert found.bits <= bits
    packed = pack(codes, found)
    assert packed.dtype is torch.uint8
    assert packed.shape == (-(-codes.numel() * found.bits // 8),)
    back = unpack(packed, found, tuple(codes.shape))
    assert back.dtype is torch.int8
    assert torch.equal(back, codes)


@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 4), (4, 4)])
@pytest.mark.parametrize("signed", [True, False])
def test_all_codes_of_four_bits_and_fewer_fit(bits: int, stored: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.arange(low, low + 2**bits, dtype=torch.int8)
    packing = packing_of(codes)
    assert packing == Packing(low, stored)
    assert torch.equal(unpack(pack(codes, packing), packing, (2**bits,)), codes)


@pytest.mark.parametrize(("codes", "packing"), [([-1, 1, 1], Packing(-1, 1, 2)), ([127, -128], Packing(-128, 1, 255))])
def test_two_values_take_a_bit_each(codes: list[int], packing: Packing) -> None:
    tensor = torch.tensor(codes * 5, dtype=torch.int8)
    assert packing_of(tensor) == packing
    packed = pack(tensor, packing)
    assert len(packed) == -(-len(tensor) // 8)
    assert torch.equal(unpack(packed, packing, (5, len(codes))), tensor.reshape(5, -1))


def test_the_first_of_a_byte_lies_low() -> None:
    assert pack(torch.tensor([-8, 7, 0], dtype=torch.int8), Packing(-8, 4)).tolist() == [0xF0, 0x08]
    assert pack(torch.tensor([0, 1, 2, 3, 3], dtype=torch.int8), Packing(0, 2)).tolist() == [0b11100100, 0b11]


@pytest.mark.parametrize("codes", [[-9, 7, 0], [0, 16, 1], [-128, 127, 0]])
def test_wider_codes_are_not_packed(codes: list[int]) -> None:
    assert packing_of(torch.tensor(codes, dtype=torch.int8)) is None


def test_other_tensors_are_not_packed() -> None:
    assert packing_of(torch.zeros(0, dtype=torch.int8)) is None
    assert packing_of(torch.zeros(4, dtype=torch.uint8)) is None
    assert packing_of(torch.zeros(4)) is None


@pytest.mark.parametrize(("size", "shape"), [(2, (5,)), (3, (4,)), (2, (2, 3))])
def test_wrong_sizes_are_refused(size: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="do not unpack"):
        unpack(torch.zeros(size, dtype=torch.uint8), Packing(-8, 4), shape)


def test_what_is_no_packing_of_int8_codes() -> None:
    for lowest, bits, step in ((-129, 4, 1), (0, 3, 1), (0, 0, 1), (0, 1, 0), (0, 1, 256)):
        with pytest.raises(CheckpointError, match="expected a packing"):
            Packing(lowest, bits, step)
    with pytest.raises(CheckpointError, match="int8 holds 127"):
        unpack(torch.full((1,), 255, dtype=torch.uint8), Packing(0, 1, 255), (8,))
