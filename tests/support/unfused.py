"""Lower, but fuse nothing: each int8 product and each quantiser is still an operator of its own."""

from __future__ import annotations

import copy

from torch import fx

import fxquant
from fxquant import pipeline
from fxquant.graph.stages import Stage


def unfused(prepared: fx.GraphModule) -> fx.GraphModule:
    """Return the int8 graph that `fxquant.convert` makes of a calibrated model, before it fuses anything."""
    return lower(fxquant.convert(prepared, "fake"))


def lower(fake: fx.GraphModule) -> fx.GraphModule:
    """Return the unfused int8 graph of a simulated one."""
    return pipeline.run(copy.deepcopy(fake), pipeline.LOWER, Stage.LOWERED)
