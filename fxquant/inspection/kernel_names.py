"""Which kernel computes a product of a graph."""

from __future__ import annotations

from torch import fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.graph.meta import value_of
from fxquant.kernels import cpu, multiplies_float8, triton
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.lowering.linear_site import linear_site
from fxquant.lowering.quantized import INT8_LINEARS, INT8_PRODUCTS, factors
from fxquant.ops import attention, attention_quantize, float8_linear
from fxquant.ops.onednn_linear import onednn_linear


def cpu_kernels() -> str:
    """Return the name of fxquant's kernels for x86 processors, with the instructions that they use."""
    isa = cpu.isa_in_use()
    return f"fxquant {isa.label}" if isa else "fxquant C++"


def kernel_of(node: fx.Node, backend: str) -> str:
    """Return the name of what computes a product on the device that the graph is on; backend: see `fxquant.compile`."""
    if runs_on_cpu_kernel(node):
        return cpu_kernels()
    if node.target is onednn_linear:
        return "oneDNN qlinear_pointwise"
    if node.target is float8_linear:
        on_units = multiplies_float8(tensor_of(factors(node)[1]))
        return "torch._scaled_mm" if on_units else "torch matmul of dequantised codes"
    devices = {tensor_of(a).device for a in node.all_input_nodes if a.op == "get_attr"} if backend == "auto" else set()
    kind = {device.type for device in devices}
    fused = node.target in (attention, attention_quantize)
    if not fused and node.target not in INT8_PRODUCTS:
        return f"torch {getattr(node.target, '__name__', node.target)}"
    if kind == {"cpu"} and _fits_cpu(node) and cpu.expected_obstacle() is None:
        return cpu_kernels()
    if kind == {"cuda"} and not fused and triton.obstacle(next(iter(devices)).index or 0) is None:
        return "Triton"
    if fused:
        return "torch scaled_dot_product_attention"
    return "torch._int_mm" if node.target in INT8_LINEARS else "torch bmm or _int_mm"


def runs_on_cpu_kernel(node: fx.Node) -> bool:
    """Say whether `node` calls one of the kernels directly, as after `fxquant.compile`."""
    return node.target in (KERNELS.cpu_gemm.default, KERNELS.cpu_gemm_tokens.default, KERNELS.cpu_attention.default)


def _fits_cpu(node: fx.Node) -> bool:
    """Say whether fxquant's kernels for x86 processors take the operands."""
    known, site = [value_of(a) for a in factors(node)], linear_site(node)
    value = known[0]
    if value is None:
        return False
    if node.target in (attention, attention_quantize):
        return all(t is not None for t in known) and cpu.attends(arguments_of(node)["factor"], *known)  # type: ignore[arg-type]
    if site is None or site.weight_zero_point is not None:
        return False
    return cpu.fits(value, tensor_of(site.weight), tensor_of(site.scale), site.dtype)
