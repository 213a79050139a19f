"""An int8 graph as a program whose operators are torch's, and those of fxquant's libraries for x86 processors."""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from fxquant import pipeline
from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.attributes import copied_graph
from fxquant.graph.stages import Stage
from fxquant.kernels import cpu
from fxquant.ops.batched_int_mm import float32_product
from fxquant.torch_export.free_program import free_program
from fxquant.torch_export.plain_guards import plain_guards

_IN_CPP = "fxquant::cpu_"  # what the names of the operators begin with that the libraries have


def python_free_program(gm: fx.GraphModule, batch: int | None = None) -> ExportedProgram:
    """
    Return the program of an int8 graph with fxquant's kernels for x86 processors; batch: as of `free_program`.

    Integer products of attention become float32 products of the codes, which are as exact.

    Raises `InputError` where the kernels do not run here, which pack the weights, and `UnsupportedGraphError` naming the
    operators that are left and need Python.
    """
    obstacle = cpu.obstacle()
    if obstacle is not None:
        raise InputError(f"expected fxquant's kernels, which a package takes in: {obstacle}")
    gm = pipeline.run(copied_graph(gm), pipeline.compile_for_cpu(frozenset(), own=True), Stage.LOWERED)
    plain_guards(gm)
    program: ExportedProgram = free_program(gm, batch).run_decompositions(
        {torch.ops.fxquant.batched_int_mm.default: float32_product}
    )
    overloads = {n.target for n in program.graph.nodes if isinstance(n.target, OpOverload)}
    names = sorted(name for name in (o.name() for o in overloads) if name.startswith("fxquant::"))
    left = [name for name in names if not name.startswith(_IN_CPP)]
    if left:
        raise UnsupportedGraphError(f"a package has no Python, which these operators need: {', '.join(left)}")
    return program
