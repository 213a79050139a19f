"""The stages that a graph goes through."""

from __future__ import annotations

from enum import Enum

from torch import fx

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


def set_stage(gm: fx.GraphModule, stage: Stage) -> None:
    """Write the stage that a graph has reached."""
    write_stage(gm, stage)
