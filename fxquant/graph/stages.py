"""The stages that a graph goes through."""

from __future__ import annotations

from enum import Enum

from torch import fx


class Stage(Enum):
    """The stages a graph goes through."""

    FLOAT = "float"
    PREPARED = "prepared"
    QUANTISED = "quantised"
    LOWERED = "lowered"


_KEY = "stage"


def stage_of(gm: fx.GraphModule) -> Stage | None:
    """Return the stage of a graph module made by fxquant, None for any other."""
    stage = gm.meta.get(_KEY)
    return stage if isinstance(stage, Stage) else None


def set_stage(gm: fx.GraphModule, stage: Stage) -> None:
    """Write the stage that a graph has reached."""
    gm.meta[_KEY] = stage
