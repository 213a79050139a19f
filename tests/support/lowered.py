"""Small models on int8 before anything is fused, for the passes that fuse."""

from __future__ import annotations

from torch import Tensor, fx, nn

import fxquant
from fxquant import QuantConfig
from fxquant.graph.rewrite import Pass
from fxquant.graph.shapes import propagate_shapes
from tests.support import noisy
from tests.support.unfused import unfused


def lowered(
    module: nn.Module,
    x: Tensor,
    config: QuantConfig | None = None,
    *passes: Pass,
    noise: int = 0,
) -> fx.GraphModule:
    """Return `module` calibrated on `x` and lowered, every shape known, then `passes`; noise: see `tests.support.noisy`."""
    if noise:
        prepared = noisy.prepared(module, x, config, noise)
    else:
        prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"))
        prepared(x)
    gm = unfused(prepared)
    propagate_shapes(gm, [x])
    for each in passes:
        gm = each(gm).graph_module
    return gm
