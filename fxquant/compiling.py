"""`torch.compile` with the settings that are best on the device."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import fx, nn

from fxquant import pipeline
from fxquant.ops import int8_linear
from fxquant.ops.onednn_linear import is_available
from fxquant.spec import Stage, stage_of


def compile_graph(gm: fx.GraphModule) -> nn.Module:
    """Return `gm` compiled: through oneDNN where its int8 products run on an x86 processor, else as `torch.compile` does."""
    if stage_of(gm) is not Stage.LOWERED or not _runs_on_cpu(gm) or not is_available():
        compiled: Any = torch.compile(gm)
        return cast(nn.Module, compiled)
    twin = fx.GraphModule(gm, copy.deepcopy(gm.graph), type(gm).__name__)  # another graph over the same tensors
    twin.meta = dict(gm.meta)
    return FrozenModule(pipeline.run(twin, pipeline.COMPILE_CPU, Stage.LOWERED))


class FrozenModule(nn.Module):
    """
    Compile a graph module with its weights as constants, so that they are packed for oneDNN once, at the first call.

    It runs without gradients. Weights that change after the first call are not seen.
    """

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__()
        self.compiled = torch.compile(gm)

    def forward(self, *args: Any) -> Any:
        """Run the compiled graph."""
        import torch._inductor.config as inductor

        # dynamo reads the setting while it traces, before the options of torch.compile are in force
        with torch.no_grad(), inductor.patch(freezing=True, always_keep_tensor_constants=True):
            return self.compiled(*args)


def _runs_on_cpu(gm: fx.GraphModule) -> bool:
    tensors = [*gm.parameters(), *gm.buffers()]
    return any(n.target is int8_linear for n in gm.graph.nodes) and all(t.device.type == "cpu" for t in tensors)
