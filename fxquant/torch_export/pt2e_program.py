"""`export_pt2e`: the program that PT2E's backends take."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from fxquant import pipeline
from fxquant.errors import ConfigError, UnsupportedGraphError, expect_whole
from fxquant.graph.attributes import copied_graph
from fxquant.graph.rewrite import location
from fxquant.graph.stages import Stage, expect_converted
from fxquant.torch_export.free_program import free_program
from fxquant.torch_export.plain_guards import plain_guards
from fxquant.torch_export.standard_quantizers import refuse_others, standard_quantizers


def export_pt2e(gm: fx.GraphModule, activations: torch.dtype = torch.int8, batch: int | None = None) -> ExportedProgram:
    """
    Return a converted graph as a program with the quantisers of PT2E, `torch.ops.quantized_decomposed`, around float products.

    gm: from `fxquant.convert`, for either target, or from `fxquant.load`. activations: `torch.int8`, or
    `torch.uint8`, which torchao's lowering for x86 needs. batch: the one batch size of the program, for runtimes that plan
    their memory; None: any. Weights are int8 with a scale per output channel. An image that is not finite gives NaN; nothing is
    said of values beyond those that calibration saw. Codes are those of `gm`, but where a value lies on the edge between two:
    there the standard operators, which multiply by the reciprocal of the scale, may take the other.

    Raises `InputError` for any other graph, `ConfigError` for another dtype, `UnsupportedGraphError` naming each quantiser that
    the standard operators do not know: twin-uniform codes, powers, float8 codes, and scales per token other than affine ones of
    8 bits.
    """
    if activations not in (torch.int8, torch.uint8):
        raise ConfigError(f"activations must be torch.int8 or torch.uint8, got {activations!r}")
    if batch is not None:
        expect_whole("batch", batch, least=1)
    expect_converted(gm, "export_pt2e", Stage.QUANTISED, Stage.LOWERED)
    refuse_others(gm)  # float8 products have no simulated form
    gm = pipeline.run(copied_graph(gm), pipeline.WITHOUT_NOISE, Stage.QUANTISED)
    plain_guards(gm)
    standard_quantizers(gm, activations)
    return _checked(free_program(gm, batch))


def _checked(program: ExportedProgram) -> ExportedProgram:
    """Return a program in which nothing rounds but the standard quantisers: any other became arithmetic on the way."""
    rounding = [node for node in program.graph.nodes if str(node.target).startswith("aten.round")]
    if rounding:
        raise UnsupportedGraphError(
            f"export_pt2e: {rounding[0].name!r}{location(rounding[0])} rounds values, which only the quantisers of PT2E may "
            "do; choose a recipe without such quantisers"
        )
    return program
