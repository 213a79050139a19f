"""How many codes there are, whatever is made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxquant.config.operands import TensorSpec
from fxquant.numerics.arithmetic import storage_offset
from fxquant.numerics.codes import Codes

widths = st.integers(2, 8)
# Only signed codes may be narrow, as `TensorSpec` checks.
codes = st.builds(Codes, bits=widths, signed=st.booleans()) | st.builds(
    Codes, widths, st.just(True), narrow=st.just(True)
)


@given(spec=codes)
def test_codes_fit_the_byte_that_stores_them(spec: Codes) -> None:
    stored = torch.tensor([spec.qmin, spec.qmax]) - storage_offset(spec.qmax)
    limits = torch.iinfo(torch.int8)
    assert limits.min <= int(stored.min()) <= int(stored.max()) <= limits.max


@given(spec=codes)
def test_all_codes_of_a_width_are_used_but_one_where_they_are_narrow(spec: Codes) -> None:
    assert spec.qmax - spec.qmin + 1 == 2**spec.bits - spec.narrow
    assert spec.qmin <= 0 < spec.qmax


@given(bits=widths)
def test_only_narrow_signed_codes_lie_evenly_around_zero(bits: int) -> None:
    narrow, wide = (Codes(bits, signed=True, narrow=each) for each in (True, False))
    assert narrow.qmin == -narrow.qmax
    assert wide.qmin == -wide.qmax - 1


@pytest.mark.parametrize(("signed", "dtype"), [(True, "int4"), (False, "uint4")])
def test_a_spec_is_the_codes_that_its_observer_sees(signed: bool, dtype: str) -> None:
    spec = TensorSpec(4, signed=signed)
    own = Codes(4, signed)
    assert (spec.qmin, spec.qmax, spec.dtype, spec.granularity) == (own.qmin, own.qmax, dtype, own.granularity)
    assert isinstance(spec, Codes)
    assert spec != own


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "expected"),
    [
        (8, False, False, (0, 255)),
        (8, True, False, (-128, 127)),
        (8, True, True, (-127, 127)),
        (2, True, False, (-2, 1)),
    ],
)
def test_codes(bits: int, signed: bool, narrow: bool, expected: tuple[int, int]) -> None:
    spec = TensorSpec(bits, signed=signed, narrow=narrow)
    assert (spec.qmin, spec.qmax) == expected
