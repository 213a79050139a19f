"""
Every operator gives what torch's own give, or an error, whatever is wrong with one of its arguments; so does a fake one.

Those of Triton are called in ``tests/kernels/triton/test_operators.py``.
"""

from __future__ import annotations

import pytest
import torch

from fxquant.errors import InputError
from fxquant.kernels import cpu, use_backend
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


@needs_kernels
@pytest.mark.parametrize("name", [name for name, call in cpu_calls().items() if not name.startswith("check")])
def test_an_operand_without_values_is_refused_beside_others(name: str) -> None:
    assert cpu.is_available()
    args, run = cpu_calls()[name].args, getattr(torch.ops.fxquant, name.partition(" ")[0])
    given = [place for place, value in enumerate(args) if isinstance(value, torch.Tensor)]
    for place in given if len(given) > 1 else ():
        mixed = [value.to("meta") if at == place else value for at, value in enumerate(args)]
        with pytest.raises(InputError, match="all have values, or that all have none"):
            run(*mixed)


@pytest.mark.parametrize("name", ["int8_linear", "int8_linear_twin", "int8_linear_gelu_quantize"])
def test_a_weight_without_values_is_refused_on_every_backend(name: str) -> None:
    args = list(function_calls()[name].args)
    args[1] = args[1].to("meta")
    with use_backend("aten"), pytest.raises(InputError, match="on one device, found cpu and meta"):
        FUNCTIONS[name](*args)
