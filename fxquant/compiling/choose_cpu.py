"""Measure which kernel is faster for each int8 linear layer of a graph on this machine."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.meta import record_of, value_of
from fxquant.kernels.cpu import operators
from fxquant.kernels.quantizer import Quantizer
from fxquant.lowering.linear_site import linear_site
from fxquant.ops.onednn_linear import is_available as has_onednn
from fxquant.ops.onednn_linear import packed_onednn_linear, prepack

MARGIN = 1.1  # what a busy machine may add to one of the two
ROUNDS = 7


def sites_for_onednn(gm: fx.GraphModule) -> frozenset[str]:
    """
    Return the labels of the int8 linear layers that oneDNN runs faster than fxquant's own kernels.

    There are such layers on processors with AMX alone, which fxquant's kernels do not use. Elsewhere both multiply by the
    same instruction, and nothing is measured. Layers of one shape are measured once, on random codes, with as many rows as
    the batch that calibrated the model had.
    """
    if not has_onednn() or not torch.cpu.get_capabilities().get("amx_int8"):
        return frozenset()
    found = set()
    for node in gm.graph.nodes:
        site, record = linear_site(node), record_of(node)
        if site is None or record is None or site.weight_zero_point is not None or site.low is not None:
            continue
        value = value_of(site.codes)
        if value is None or value.shape[-1] % 4 or site.dtype not in (torch.float32, torch.bfloat16):
            continue
        rows = math.prod(value.shape[:-1])
        codes = site.quantizer is not None
        shape = (rows, value.shape[-1], tensor_of(site.scale).shape[0])
        if _onednn_is_faster(*shape, site.dtype, site.gelu, site.residual is not None, codes, torch.get_num_threads()):
            found.add(record.label)
    return frozenset(found)


def all_linear_sites(gm: fx.GraphModule) -> frozenset[str]:
    """Return the labels of all int8 linear layers."""
    records = (record_of(n) for n in gm.graph.nodes if linear_site(n) is not None)
    return frozenset(r.label for r in records if r is not None)


@functools.cache
def _onednn_is_faster(
    rows: int, depth: int, outputs: int, dtype: torch.dtype, gelu: str | None, added: bool, codes: bool, threads: int
) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (rows, depth), dtype=torch.int8, generator=generator)
    weight = torch.randint(-127, 128, (outputs, depth), dtype=torch.int8, generator=generator)
    scale, bias = torch.full((outputs,), 1e-4), torch.zeros(outputs)
    residual = torch.zeros(rows, outputs, dtype=dtype) if added else None
    one = torch.tensor(0.1)
    quantizer = Quantizer(one, None, None, None, None, -128, 127) if codes else None
    packed, theirs = operators.pack(weight, outputs, depth), prepack(weight)

    def own() -> Tensor:
        steps: dict[str, Any] = {"gelu": gelu, "residual": residual, "quantizer": quantizer}
        return operators.packed_linear(x, *packed, scale, bias, dtype, **steps)

    def onednn() -> Tensor:
        y = packed_onednn_linear(x, theirs, scale, bias, dtype, gelu)
        y = y if residual is None else residual + y
        return y if quantizer is None else operators.quantize(y, quantizer)

    rounds = [(_seconds(own), _seconds(onednn)) for _ in range(ROUNDS)]
    mine, other = (min(times) for times in zip(*rounds, strict=True))
    return bool(mine > MARGIN * other)


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
