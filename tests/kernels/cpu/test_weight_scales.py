"""The C++ search for the scale that a weight starts from finds that of torch's operators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.kernels import cpu, use_backend
from fxquant.numerics.learned_step import WIDTHS, initial_weight_scale, initial_weight_scales
from tests.support.cpu_operands import seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels


@settings(max_examples=25, deadline=None)
@given(
    size=st.one_of(st.integers(1, 70), st.sampled_from([1000, 20_001])),
    power=st.sampled_from([0, 1, 3]),
    factor=st.sampled_from([1e-6, 0.02, 100.0]),
    seed=seeds,
)
def test_scales(size: int, power: int, factor: float, seed: int) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed)) ** power * factor
    found = initial_weight_scales(weight, (2, 3, 4, 6))
    with use_backend("aten"):
        wanted = initial_weight_scales(weight, (2, 3, 4, 6))
    assert torch.allclose(found, wanted, rtol=3e-7, atol=0)


def test_a_search_of_more_than_a_thousand_turns() -> None:
    weight = torch.randn(147_456, generator=torch.Generator().manual_seed(0)) * 0.02
    scale, before = weight.abs().max() / 127, torch.zeros(())
    turns = 0
    while (scale - before).abs() >= 1e-5 * scale:
        codes = (weight / scale).clamp(-128, 127).round().double()
        before, scale = scale, ((weight * codes).sum() / codes.square().sum()).float()
        turns += 1
    assert turns > 1000
    assert torch.allclose(initial_weight_scale(weight, 8), scale, rtol=1e-6, atol=0)


def test_strides_shapes_and_zeros() -> None:
    weight = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(initial_weight_scales(weight), initial_weight_scales(weight.flatten()))
    assert torch.equal(initial_weight_scales(weight.mT), initial_weight_scales(weight.mT.contiguous()))
    assert initial_weight_scales(torch.zeros(5)).tolist() == [0.0] * len(WIDTHS)


def test_threads_give_the_same() -> None:
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(initial_weight_scales(weight))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("widths", [(4,), (2, 8)])
def test_is_a_well_behaved_operator(widths: tuple[int, ...]) -> None:
    assert cpu.is_available()
    call = (torch.randn(6, 5), torch.tensor(widths), 1e-5, 100)
    torch.library.opcheck(torch.ops.fxquant.cpu_weight_scales.default, call)
