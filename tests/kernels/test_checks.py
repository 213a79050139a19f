"""
Every operator gives what torch's own give, or an error, whatever is wrong with one of its arguments; so does a fake one.

Those of Triton are called in ``tests/kernels/triton/test_operators.py``.
"""

from __future__ import annotations

import pytest
import torch

from fxquant.kernels import cpu
from tests.support.needs_cpu_kernels import needs_kernels
from tests.support.operator_calls import FUNCTIONS, cpu_calls, function_calls, registered
from tests.support.operator_outcomes import function_faults, operator_faults


def test_every_operator_is_called() -> None:
    called = {name.partition(" ")[0] for name in cpu_calls()}
    assert {name for name in registered() if not name.startswith("triton_")} == called


def test_every_function_is_called() -> None:
    assert {name.partition(" ")[0] for name in function_calls()} == FUNCTIONS.keys()


@needs_kernels
@pytest.mark.filterwarnings("ignore:input 'x'")  # ranges are among what is changed
@pytest.mark.parametrize("name", cpu_calls())
def test_an_operator_is_right_or_refuses(name: str) -> None:
    assert cpu.is_available()
    assert operator_faults("cpu_calls", name) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", function_calls())
def test_a_function_is_right_or_refuses_on_every_backend(name: str) -> None:
    assert function_faults(name) == []


@needs_kernels
def test_an_error_says_what_was_expected_and_what_was_found() -> None:
    assert cpu.is_available()
    codes, ones = torch.zeros(2, 8, dtype=torch.int8), torch.ones(4096)
    weight, zero = torch.zeros(8, 8, dtype=torch.int8), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"a weight of at least \(4096, 8\).*, found int8 of shape \(8, 8\)"):
        cpu.linear(codes, weight, ones, ones, torch.float32)
    with pytest.raises(RuntimeError, match=r"the bias in float32 of shape \(8\), found float32 of shape \(4096\)$"):
        cpu.linear(codes, weight, ones[:8], ones, torch.float32)
    with pytest.raises(RuntimeError, match=r"the zero point in int32 of one element, found int32 of shape \(0\)"):
        cpu.quantize(ones, cpu.Quantizer(ones[0], zero, None, None, None, 0, 255))
