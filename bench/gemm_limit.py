"""
How close an int8 ViT is to the time that its matrix products alone would take.

The limit is the number of operations of all linear layers that run on int8, at the best rate that `torch._int_mm` reaches on
any of their shapes in the same interleaved run.

    python -m bench.gemm_limit [--model vit_base_patch16_224] [--batch 8] [--threads 2]   # bench/results/gemm_limit.json
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import Any

import torch
from torch import Tensor, fx

import fxquant
from bench.harness.results import RowsFile
from bench.harness.timing import Competitor
from bench.latency.cells import RECIPE, make_subject
from fxquant.graph.meta import known_value
from fxquant.lowering.linear_site import linear_site
from fxquant.measurement.timing import time_interleaved

ROWS = RowsFile("gemm_limit", ("model", "batch", "threads"), {"recipe": f"{RECIPE} W8A8, random images", "seed": 0})
Shape = tuple[int, int, int]


def product_shapes(gm: fx.GraphModule, batch: int) -> list[Shape]:
    """Return rows, depth and outputs of every int8 linear layer for `batch` images, as many times as it occurs."""
    shapes = []
    for node in gm.graph.nodes:
        site = linear_site(node)
        if site is not None:
            codes: Tensor = known_value(site.codes)
            first = known_value(next(n for n in gm.graph.nodes if n.op == "placeholder"))
            rows = math.prod(codes.shape[:-1]) * batch // first.shape[0]
            shapes.append((rows, int(codes.shape[-1]), int(known_value(node).shape[-1])))
    return shapes


def multiply(shape: Shape) -> Competitor:
    """Return a call of `torch._int_mm` on random codes."""
    rows, depth, outputs = shape
    codes = torch.randint(-128, 128, (rows, depth), dtype=torch.int8)
    weight = torch.randint(-127, 128, (outputs, depth), dtype=torch.int8)
    return functools.partial(torch._int_mm, codes, weight.t())


def measure(model: str, batch: int, rounds: int, **options: Any) -> dict[str, Any]:
    """Time the compiled model, everything else in bfloat16, and each shape of its products, interleaved."""
    subject, images = make_subject(model, batch, **options)
    gm = subject.quantized(torch.bfloat16)
    shapes = product_shapes(gm, batch)
    compiled, x = fxquant.compile(gm), images.to(torch.bfloat16)
    compiled(x)
    calls = {str(shape): multiply(shape) for shape in dict.fromkeys(shapes)}
    timings = time_interleaved({"model": lambda: compiled(x), **calls}, rounds=rounds, seconds_per_round=0.1)
    rates = {str(shape): 2 * math.prod(shape) / timings[str(shape)].median / 1e9 for shape in dict.fromkeys(shapes)}
    operations = sum(2 * math.prod(shape) for shape in shapes)
    limit = operations / max(rates.values()) / 1e9
    return {
        "model": model,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "giga_operations": round(operations / 1e9, 2),
        "int_mm_giga_operations_per_second": {shape: round(rate, 1) for shape, rate in rates.items()},
        "limit_ms": round(limit * 1e3, 2),
        "model_ms": round(timings["model"].median * 1e3, 2),
        "share_of_limit": round(limit / timings["model"].median, 4),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    row = measure(options.model, options.batch, options.rounds)
    print(f"{row['model_ms']} ms, products alone {row['limit_ms']} ms: {row['share_of_limit']:.1%} of the limit")
    ROWS.add(row)


if __name__ == "__main__":
    main()
