"""Refuse what cannot be trained, before the first step."""

from __future__ import annotations

from torch import Tensor, fx, nn

from fxquant.errors import ConfigError, InputError, UnsupportedGraphError
from fxquant.graph.meta import is_trainable
from fxquant.graph.stages import Stage, stage_of
from fxquant.graph.trained import is_trained
from fxquant.observers.base import Observer
from fxquant.training.options import TrainingOptions


def refuse_graph(prepared: nn.Module) -> None:
    """Raise `UnsupportedGraphError` unless `prepared` is a graph from `fxquant.prepare_qat`."""
    stage = stage_of(prepared) if isinstance(prepared, fx.GraphModule) else None
    if not isinstance(prepared, fx.GraphModule) or stage is None:
        found = f"a {type(prepared).__name__} that fxquant did not make"
    elif stage is not Stage.PREPARED:
        found = f"a graph at stage {stage.value}"
    elif not is_trained(prepared):
        found = "a graph without learned steps"
    elif not is_trainable(prepared):
        found = "one from fxquant.prepare, which folds parameters into constants"
    else:
        return
    raise UnsupportedGraphError(f"train expected a graph from fxquant.prepare_qat, found {found}")


def refuse_idle_budget(prepared: fx.GraphModule, options: TrainingOptions) -> None:
    """Raise `ConfigError` for a budget where no bit width is learned that could meet it."""
    learned = any(isinstance(m, Observer) and m.learns_bits for m in prepared.modules())
    if options.budget is not None and not learned:
        raise ConfigError(
            f"a budget of {options.budget:g} is given, but no bit width is learned: prepare with "
            "recipe('vvtq', learned_bits=True), in the command line --option learned_bits=true"
        )


def refuse_unknown_classes(labels: Tensor, classes: int) -> None:
    """Raise `InputError` where a class index in `labels` is not below `classes`."""
    low, high = (int(bound) for bound in labels.aminmax()) if labels.numel() else (0, 0)
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"label {wrong} is not one of the model's {classes} classes, 0 to {classes - 1}")
