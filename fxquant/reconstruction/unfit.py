"""What cannot be reconstructed."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.meta import model_dtype
from fxquant.graph.stages import Stage, stage_of
from fxquant.graph.trained import is_trained
from fxquant.observers.base import Observer


def refuse_unfit(prepared: nn.Module) -> None:
    """Raise `UnsupportedGraphError` for all but a float32 graph of `fxquant.prepare`, `CalibrationError` where uncalibrated."""
    wanted = "reconstruct expected a calibrated graph from fxquant.prepare"
    stage = stage_of(prepared) if isinstance(prepared, fx.GraphModule) else None
    if not isinstance(prepared, fx.GraphModule) or stage is None:
        raise UnsupportedGraphError(f"{wanted}, found a {type(prepared).__name__} that fxquant did not make")
    if stage is not Stage.PREPARED:
        raise UnsupportedGraphError(f"{wanted}, found a graph at stage {stage.value}")
    if is_trained(prepared):
        raise UnsupportedGraphError(f"{wanted}, found one from fxquant.prepare_qat, which is trained as a whole")
    if model_dtype(prepared) is not torch.float32:
        raise UnsupportedGraphError(
            f"reconstruct expected a float32 model, found {model_dtype(prepared)}: use model.float()"
        )
    for observer in prepared.modules():
        if isinstance(observer, Observer):
            _refuse_observer(observer)


def refuse_unbatched(node: fx.Node, value: object, count: int) -> None:
    """Raise `UnsupportedGraphError` where the `value` between two blocks does not have its `count` images along axis 0."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != count:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UnsupportedGraphError(
            f"node {node.name!r}: reconstruction expected a tensor with the {count} images along axis 0, found {found}"
        )


def _refuse_observer(observer: Observer) -> None:
    observer.calculate_qparams()  # raises, naming the node
    for what, there in (("a noisy bias", observer.noise.numel()), ("a softmax on integers", observer.integer_softmax)):
        if there:
            raise UnsupportedGraphError(
                f"node {observer.operand!r}: {what} cannot be reconstructed: choose a recipe without it"
            )
