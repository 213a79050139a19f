"""The float graph of a model, whatever of the two is given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from fxquant.api import trace
from fxquant.errors import InputError
from fxquant.graph.inputs import Arguments, Batch, moved
from fxquant.graph.stages import Stage, stage_of
from fxquant.precision.run_outputs import first_float


def float_graph(model: nn.Module, batches: Sequence[Batch]) -> fx.GraphModule:
    """Return `model` where it is a float graph, else trace it on the first of `batches`; raise `InputError` for none."""
    if not batches:
        raise InputError("expected at least one batch of images to calibrate and measure on, found none")
    if isinstance(model, fx.GraphModule) and stage_of(model) is Stage.FLOAT:
        return model
    like = first_float(model)
    return trace(model, moved(Arguments.of(model).bind(batches[0]), like.device, like.dtype))
