"""MinMax: as published, and the extremes of everything seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.config.operands import TensorSpec
from fxquant.numerics.arithmetic import dequantize, quantize
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import MinMax
from tests.support.observer_parity import RECORDED, assert_as_published, each_bits, each_stream, observed


@each_stream
@each_bits
def test_as_published(stream: str, bits: int) -> None:
    assert_as_published(MinMax(), "minmax", stream, bits, rtol=0)


@each_bits
@pytest.mark.parametrize("name", ["linear", "linear_ties", "conv"])
def test_weights_as_published(name: str, bits: int) -> None:
    w, recorded = RECORDED[f"weight/{name}/w"], f"weight/{name}/s{bits}"
    spec = TensorSpec(bits=bits, signed=True, symmetric=True, granularity=PerChannel(0))
    qparams = observed(MinMax(), [w], spec).calculate_qparams()
    assert qparams.zero_point is None
    assert qparams.scale.equal(RECORDED[f"{recorded}/scale"])
    codes = quantize(w, qparams.scale, None, spec.qmin, spec.qmax, axis=0)
    assert codes.to(torch.int16).equal(RECORDED[f"{recorded}/codes"])
    assert dequantize(codes, qparams.scale, None, axis=0).equal(RECORDED[f"{recorded}/dequant"])


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=5), min_size=1, max_size=5))
def test_range_holds_every_batch(batches: list[list[float]]) -> None:
    observer = observed(MinMax(), [torch.tensor(batch) for batch in batches])
    everything = [value for batch in batches for value in batch]
    assert [end.tolist() for end in observer.range()] == [[min(everything)], [max(everything)]]
