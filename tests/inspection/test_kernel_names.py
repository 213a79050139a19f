"""Which kernel computes a product: what a node calls directly, else what its device and operands allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant import PerChannel, QuantConfig, ops
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.inspection.kernel_names import cpu_kernels, kernel_of, runs_on_cpu_kernel
from fxquant.kernels import cpu, triton
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.lowering.quantized import INT8_LINEARS
from fxquant.ops.onednn_linear import onednn_linear
from tests.support.lowered import lowered

INT_MM = "torch._int_mm"


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor be one that the kernels are for, and every GPU too."""
    monkeypatch.setattr(cpu, "expected_obstacle", lambda: None)
    monkeypatch.setattr(triton, "obstacle", lambda index: None)


def product(config: QuantConfig | None = None, width: int = 8, device: str = "cpu") -> fx.Node:
    """Return the int8 product of a small linear layer."""
    gm = lowered(nn.Linear(width, 8), torch.randn(4, width), config).to(device)
    return next(n for n in gm.graph.nodes if n.target in INT8_LINEARS)


def called(target: Any, *args: Any) -> fx.Node:
    graph = fx.Graph()
    return graph.call_function(target, (graph.placeholder("x"), *args))


@pytest.mark.parametrize("backend", ["auto", "aten"])
@pytest.mark.parametrize(
    ("target", "name"),
    [
        (KERNELS.cpu_gemm.default, cpu_kernels()),
        (KERNELS.cpu_attention.default, cpu_kernels()),
        (onednn_linear, "oneDNN qlinear_pointwise"),
        (F.linear, "torch linear"),
        (torch.matmul, "torch matmul"),
    ],
)
@pytest.mark.usefixtures("everywhere")
def test_what_a_node_calls_directly_is_named_by_any_backend(backend: str, target: Any, name: str) -> None:
    node = called(target)
    assert kernel_of(node, backend) == name
    assert runs_on_cpu_kernel(node) == (name == cpu_kernels())


def test_a_method_is_named_as_it_is_called() -> None:
    graph = fx.Graph()
    assert kernel_of(graph.call_method("matmul", (graph.placeholder("x"),)), "auto") == "torch matmul"


@pytest.mark.usefixtures("everywhere")
def test_linear_layers_run_on_the_kernels_of_the_processor_unless_another_backend_is_asked_for() -> None:
    node = product()
    assert kernel_of(node, "auto") == cpu_kernels()
    assert kernel_of(node, "aten") == INT_MM
    assert not runs_on_cpu_kernel(node)  # which `fxquant.compile` has not chosen yet


@pytest.mark.usefixtures("everywhere")
def test_operands_that_the_kernels_do_not_take_are_left_to_torch() -> None:
    affine = QuantConfig(layer=LayerSpec(weight=TensorSpec(granularity=PerChannel(0), signed=True, symmetric=False)))
    assert kernel_of(product(affine), "auto") == INT_MM
    assert kernel_of(product(width=6), "auto") == INT_MM  # the kernels read four codes at once
    unknown = product()
    del unknown.args[0].meta["val"]  # type: ignore[union-attr]
    assert kernel_of(unknown, "auto") == INT_MM


def test_a_processor_without_the_instructions_runs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "expected_obstacle", lambda: "no AVX512")
    assert kernel_of(product(), "auto") == INT_MM


@pytest.mark.usefixtures("everywhere")
def test_another_device_runs_torch() -> None:
    assert kernel_of(product(device="meta"), "auto") == INT_MM


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (ops.int8_matmul, "torch bmm or _int_mm"),
        (ops.int8_matmul_twin, "torch bmm or _int_mm"),
        (ops.attention_quantize, "torch scaled_dot_product_attention"),
    ],
)
@pytest.mark.usefixtures("everywhere")
def test_products_of_activations_name_their_own_operators(target: Any, name: str) -> None:
    assert kernel_of(called(target), "aten") == name
    assert kernel_of(called(target), "auto") == name  # nothing says on which device they are
