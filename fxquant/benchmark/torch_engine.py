"""The engine of everything that torch runs, eager or compiled. torch's profiler tells which products ran."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fxquant.benchmark.competitor import Engine, Evidence
from fxquant.errors import InputError

# Name of a profiled operator -> position of an operand whose dtype is that of the product, None: always int8. Operators that
# only call another one of the list, such as aten::linear, are left out.
_PRODUCTS: dict[str, int | None] = {
    r"aten::(addmm|baddbmm)": 1,
    r"aten::(mm|bmm|_int_mm|convolution)": 0,
    r"aten::_scaled_dot_product_(?!attention_math).*": 0,
    r"mkldnn::_(linear|convolution)_pointwise": 0,
    r"mkl::_mkl_linear": 0,
    r"onednn::(qlinear|qconv\d?d?)_pointwise": 0,
    r"fxquant::(?!triton_)\w*(gemm|linear|matmul|attention)\w*": 0,
    # Kernels on a GPU, which is all that is left of triton operators once they are compiled: fxquant's own and inductor's.
    r"(gemm|batched)(_\d+)?": None,
    r"triton_.*_int_mm.*": None,
}
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "c10::BFloat16": "bfloat16",
    "c10::Half": "float16",
    "signed char": "int8",
    "unsigned char": "int8",
}


def torch_engine(model: Callable[[Tensor], Any], images: Tensor) -> Engine:
    """
    Return the engine of a model that is called with `images`, both on one device; raise `InputError` if it gives no tensor.
    """

    def run() -> Any:
        with torch.no_grad():
            return model(images)

    def output() -> Tensor:
        result = run()
        if not isinstance(result, Tensor):
            raise InputError(f"expected a model that returns one tensor, this one returns a {type(result).__name__}")
        return result.float().cpu()

    return Engine(run, output, lambda: profile_products(run))


def profile_products(run: Callable[[], Any]) -> Evidence:
    """Profile one call and return its matrix products."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its notes about starting and stopping go to stderr
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, record_shapes=True) as profiled:
        run()
    events: Any = profiled.profiler
    return Evidence.of(_products(events.kineto_results.events()))


def _products(events: Any) -> Iterator[tuple[str, str]]:
    for event in events:
        name = event.name()
        position = next((p for pattern, p in _PRODUCTS.items() if re.fullmatch(pattern, name)), -1)
        if position is None:
            yield name, "int8"
        elif position >= 0 and event.dtypes():  # the kernels that an operator launches bear no dtypes
            found = event.dtypes()[position]
            yield name, _DTYPES.get(found, found)
