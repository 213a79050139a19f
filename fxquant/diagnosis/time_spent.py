"""What the time of a model goes to, float and quantised."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxquant.api import compile
from fxquant.diagnosis.examined import Examined
from fxquant.diagnosis.section import DoctorSection
from fxquant.inspection.profile import OpClass, Profile, profile_graph

_SLOWEST = 2
FASTER = 1.05
_ROUNDS = 9


def check_time(examined: Examined) -> DoctorSection:
    """Return the time by kind of work of the quantised model with the kernels of its device, beside the float graph."""
    inputs = examined.timed
    quantized = profile_graph(device_graph(examined.quantized, inputs), inputs)
    reference = None if examined.source is None else profile_graph(examined.source.traced, inputs)
    header = ("kind of work", "ms", "share", *([] if reference is None else ["float ms"]), "slowest, ms")
    rows = tuple(_row(each, quantized, reference) for each in OpClass)
    rest = quantized.total - quantized.seconds[OpClass.PRODUCTS]
    lines = [
        f"{1e3 * quantized.total:.2f} ms for {len(inputs[0])} images, node by node; a compiler joins what is not a product",
        f"if products took no time at all, {1e3 * rest:.2f} ms were left: {quantized.share(OpClass.PRODUCTS):.1%} is theirs",
    ]
    warnings = []
    if reference is not None:
        ratio = reference.total / quantized.total if quantized.total else 1.0
        said = f"the float graph takes {1e3 * reference.total:.2f} ms, {ratio:.2f} times as long"
        slow = ratio < FASTER
        lines += [] if slow else [said]
        warnings += [f"int8 is not faster node by node: {said}"] if slow else []
    figures = {"quantised": quantized.as_json(), "float": None if reference is None else reference.as_json()}
    title = "What does the time go to?"
    return DoctorSection("time", title, tuple(warnings), tuple(lines), header, rows, None, figures)


def device_graph(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Return `gm` with the kernels of its device, as `fxquant.compile` runs it."""
    with torch.no_grad():
        graph: fx.GraphModule = compile(gm, example_inputs=tuple(inputs)).graph_module
    return graph


def time_ratio(gm: fx.GraphModule, other: fx.GraphModule, inputs: Sequence[Tensor]) -> float:
    """
    Return how many times that of `other` a call of `gm` takes, both with the kernels of the device.

    The median of the ratios of calls that follow each other: what else the machine does slows both.
    """
    graphs = [device_graph(each, inputs) for each in (gm, other)]
    rounds = [[_seconds(each, inputs) for each in graphs] for _ in range(_ROUNDS + 1)]
    return statistics.median(one / before for one, before in rounds[1:])


def _seconds(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        gm(*inputs)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _row(kind: OpClass, quantized: Profile, reference: Profile | None) -> tuple[str, ...]:
    slowest = [f"{name} {s * 1e3:.2f}" for name, s in list(quantized.operators[kind].items())[:_SLOWEST] if s]
    before = [] if reference is None else [f"{1e3 * reference.seconds[kind]:.2f}"]
    return (
        kind.value,
        f"{1e3 * quantized.seconds[kind]:.2f}",
        f"{quantized.share(kind):.1%}",
        *before,
        ", ".join(slowest),
    )
