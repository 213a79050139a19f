"""A converted graph as a program of `torch.export` that takes batches of any size."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from fxquant.errors import InputError
from fxquant.graph.calls import arguments_of
from fxquant.graph.inputs import has_batch
from fxquant.graph.meta import known_value, value_of
from fxquant.ops import check_input

_LEAST = 2  # torch.export takes sizes 0 and 1 for constants


def free_program(gm: fx.GraphModule, batch: int | None = None) -> ExportedProgram:
    """
    Return what `torch.export` makes of `gm`, from `fxquant.convert`, on zeros of the shapes that calibration saw.

    Every axis that `fxquant.ops.check_input` leaves free is free in the program, unless calibration saw one value along it, as
    in a mask for all heads. batch: the one batch size that it takes, for runtimes that plan their memory; all other axes then
    have the size that calibration saw.

    Raises `InputError` where the shapes of the inputs are not known.
    """
    checks = [arguments_of(n) for n in gm.graph.nodes if n.target is check_input]
    free = {given["x"]: [i for i, size in enumerate(given["shape"]) if size is None] for given in checks}
    inputs = gm.graph.find_nodes(op="placeholder")
    unknown = next((n for n in inputs if n not in free or value_of(n) is None), None)
    if unknown is not None:
        raise InputError(
            f"expected a converted graph that knows the shapes of its inputs, found none for {unknown.name!r}: take it from "
            "fxquant.convert or fxquant.load"
        )
    values = [known_value(node) for node in inputs]
    examples, axes = [], []
    for node, value in zip(inputs, values, strict=True):
        rows = [0] if has_batch(value, values) else []
        varying = [axis for axis in free[node] if axis in rows or value.shape[axis] >= _LEAST]
        sizes = list(value.shape)
        for axis in rows:
            sizes[axis] = max(sizes[axis], _LEAST) if batch is None else batch
        examples.append(torch.zeros(sizes, dtype=value.dtype))
        axes.append(dict.fromkeys(varying, Dim.DYNAMIC) if batch is None else None)
    with torch.no_grad():
        return torch.export.export(gm, tuple(examples), dynamic_shapes=tuple(axes), strict=False)
