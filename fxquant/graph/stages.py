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


def stage_of(gm: fx.GraphModule) -> Stage | None:
    """Return the stage of a graph module made by fxquant, None for any other."""
    stage = gm.meta.get("stage")
    return stage if isinstance(stage, Stage) else None
