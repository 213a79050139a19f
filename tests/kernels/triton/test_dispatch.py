"""Operators on CUDA tensors run on the kernels, eager and compiled, and on torch's own operators where that is asked for."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fxquant import ops
from fxquant.kernels import on_triton_kernels, triton, use_backend

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="needs operators that are not interpreted"
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Make tensors that only claim to be on a CUDA device, which the kernels would take."""
    importlib.import_module("fxquant.kernels.triton.operators")
    monkeypatch.setattr(triton, "obstacle", lambda device: None)
    with FakeTensorMode() as mode:
        yield mode


def every_operator(
    codes: Tensor, x: Tensor, gamma: Tensor, scale: Tensor, zero: Tensor, per_channel: Tensor
) -> list[Tensor]:
    """Call each operator that has a kernel; x ``(2, 24, 24)`` and codes of that shape, per_channel ``(24,)``."""
    uniform: Any = (scale, zero, 0, 255)
    twin: Any = (scale, scale, scale, -127, 127)
    weight, residual = codes[0], x
    heads = x.reshape(2, 24, 3, 8).transpose(1, 2)
    common = (codes, weight, per_channel, per_channel)
    return [
        ops.quantize(x, *uniform),
        ops.quantize_twin(x, *twin),
        ops.layer_norm_quantize(x, gamma, None, 1e-6, *uniform),
        ops.attention_quantize(heads, heads, heads, 0.1, None, None, *uniform),
        ops.int8_linear(*common, None, None, torch.float32, False),
        ops.int8_linear_add(*common, residual, torch.float32, False),
        ops.int8_linear_gelu_quantize(*common, "none", torch.float32, False, *uniform),
        ops.int8_linear_gelu_quantize_twin(*common, "tanh", torch.float32, False, *twin),
        ops.int8_linear_twin(*common, per_channel, torch.float32, False),
        ops.int8_linear_twin_add(*common, per_channel, residual, torch.float32, False),
        ops.int8_matmul(codes, codes.mT, scale, zero, zero, torch.float32),
        ops.int8_matmul_twin(codes, codes.mT, scale, scale, zero, torch.float32),
    ]


def operands() -> tuple[Tensor, ...]:
    codes = torch.empty(2, 24, 24, dtype=torch.int8, device="cuda")
    x = torch.empty(2, 24, 24, device="cuda")
    gamma = nn.Parameter(torch.empty(24, device="cuda"))
    zero = torch.empty((), dtype=torch.int32, device="cuda")
    return codes, x, gamma, torch.empty((), device="cuda"), zero, torch.empty(24, device="cuda")


def compiled_calls() -> list[str]:
    """Return the names of fxquant's own operators in the graph that a compiler gets, and of the products of torch."""
    graphs: list[fx.GraphModule] = []

    def keep(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        graphs.append(gm)
        return gm.forward

    torch.compiler.reset()
    torch.compile(every_operator, backend=keep, fullgraph=True)(*operands())
    targets = [str(n.target) for n in graphs[0].graph.nodes if n.op == "call_function"]
    return [t.removesuffix(".default") for t in targets if "fxquant." in t or "_int_mm" in t or "matmul" in t]


@pytest.mark.usefixtures("cuda")
def test_compilers_get_the_kernels() -> None:
    # Quantisers by themselves are left to the compiler, which fuses them with what is around them.
    linear, matmul = ["fxquant.triton_linear"] * 6, ["fxquant.triton_matmul"] * 2
    assert compiled_calls() == ["fxquant.triton_layer_norm_quantize", *linear, *matmul]


@pytest.mark.usefixtures("cuda")
def test_eager_operators_run_on_the_kernels() -> None:
    called: list[str] = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(str(func).removesuffix(".default"))
            return func(*args, **(kwargs or {}))

    mode: Any = Calls
    with mode():
        every_operator(*operands())
    counts = Counter(name for name in called if name.startswith("fxquant."))
    assert counts == {
        "fxquant.triton_linear": 6,
        "fxquant.triton_quantize": 3,
        "fxquant.triton_layer_norm_quantize": 1,
        "fxquant.triton_matmul": 2,
    }


@pytest.mark.usefixtures("cuda")
def test_torch_operators_stay_where_they_are_asked_for() -> None:
    with use_backend("aten"):
        found = compiled_calls()
    assert not any("triton" in name for name in found)
    assert sum("_int_mm of" in name for name in found) == 6


@pytest.mark.usefixtures("cuda")
def test_an_exported_graph_keeps_the_operators_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = operands()[0]
    assert on_triton_kernels(codes, None)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not on_triton_kernels(codes, None)


def test_tensors_elsewhere_do_not_run_on_them() -> None:
    assert not on_triton_kernels(torch.zeros(2), None)
    assert not on_triton_kernels(torch.zeros(2, device="meta"))


def test_fxquant_works_where_there_is_no_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None; import fxquant, fxquant.kernels.triton as t; print(t.obstacle(0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("Triton is not installed", "there is no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_says_what_is_missing() -> None:
    assert triton.obstacle(0) in ("there is no CUDA device", "Triton is not installed")
