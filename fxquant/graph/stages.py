"""The stages that a graph goes through."""

from __future__ import annotations

from enum import Enum

from torch import fx

from fxquant.errors import InputError
from fxquant.graph.meta import any_stage_of, write_stage


class Stage(Enum):
    """The stages a graph goes through."""

    FLOAT = "float"
    PREPARED = "prepared"
    QUANTISED = "quantised"
    LOWERED = "lowered"


def stage_of(gm: fx.GraphModule) -> Stage | None:
    """Return the stage of a graph module made by fxquant, None for any other."""
    stage = any_stage_of(gm)
    return stage if isinstance(stage, Stage) else None


def expect_converted(gm: fx.GraphModule, name: str, *stages: Stage) -> None:
    """Raise `InputError` in the words of the function `name` unless `gm` is a converted graph at one of the `stages`."""
    stage = stage_of(gm) if isinstance(gm, fx.GraphModule) else None
    if stage not in stages:
        kind = "an int8 graph" if stages == (Stage.LOWERED,) else "a graph"
        found = type(gm).__name__ if stage is None else f"one at stage {stage.value}"
        raise InputError(f"{name} expected {kind} from fxquant.convert or fxquant.load, found {found}")


def set_stage(gm: fx.GraphModule, stage: Stage) -> None:
    """Write the stage that a graph has reached."""
    write_stage(gm, stage)
