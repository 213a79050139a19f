"""`fxquant.inspect`: what became of every layer, as one page that needs neither a server nor a network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fxquant.errors import InputError
from fxquant.files.text_file import write_text
from fxquant.graph.inputs import Batch
from fxquant.graph.meta import card_of
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.graph_rows import graph_rows
from fxquant.inspection.html import render, render_frame
from fxquant.inspection.page_data import Inspected, Measured, page_data
from fxquant.inspection.pass_differences import PassDifference, pass_differences
from fxquant.inspection.report import graph_of

# What the page calls a stage.
_TITLES = {Stage.FLOAT: "float", Stage.PREPARED: "prepared", Stage.QUANTISED: "quantised", Stage.LOWERED: "int8"}
_FLOAT = (Stage.FLOAT, Stage.PREPARED)


class NodeShare(Protocol):
    """What part of the final error a node of a quantised graph makes, as `fxquant.compare` finds it."""

    @property
    def node(self) -> str:
        """Its name."""
        raise NotImplementedError

    @property
    def share(self) -> float | None:
        """Of the energy of the error; None where it was not measured."""
        raise NotImplementedError


class Inspection:
    """
    A page about the graphs of one model: shown in a notebook, saved as one HTML file.

    title: of the page. Its data are plain: see `to_dict`.
    """

    def __init__(self, title: str, data: Mapping[str, Any]) -> None:
        self.title = title
        self._data = data

    def to_dict(self) -> dict[str, Any]:
        """Return what the page shows, as lists, texts and numbers; tables are columns of equal length."""
        return dict(self._data)

    def to_html(self) -> str:
        """Return the page, which needs nothing beside it."""
        return render(self.title, self._data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to `path` under a temporary name first; raise `InputError` where it cannot be written."""
        write_text(path, self.to_html())

    def _repr_html_(self) -> str:
        return render_frame(self.title, self.to_html())

    def __repr__(self) -> str:
        stages = ", ".join(stage["title"] for stage in self._data["stages"])
        return f"<Inspection of {self.title}: {stages}; save(path) writes the page>"


def inspect(
    *graphs: nn.Module,
    images: Batch | Iterable[Batch] | None = None,
    passes: bool | str | os.PathLike[str] = False,
    time: bool = False,
    compared: Iterable[NodeShare] | None = None,
) -> Inspection:
    """
    Return a page on which the `graphs` of one model stand side by side, at any stages, compiled or not.

    images: a batch ``(B, 3, H, W)``, or batches as `calibrate` takes them. With them the page shows how far each node of a
    quantised graph is from the float one, how operands are distributed, and what becomes of the first images. The last float or
    prepared graph is what others are measured against. Give the prepared one where a recipe folds norms or rotates: its values
    are those that were rounded. passes: a folder that FXQUANT_TRACE named when the graphs were made, or True for the one that
    it names now; the page then shows what each pass did. time: measure how long each node takes, on the first of the images.
    compared: what `fxquant.compare` returned for one of the graphs, for the shares of the final error.

    Raises `UnsupportedGraphError` for what is no graph, and `InputError` for images without a float or prepared graph, for
    ``time`` without images, where there are no listings of passes, and where `compared` is of another graph.
    """
    if not graphs:
        raise InputError("inspect expected at least one graph, found none")
    inspected = _inspected(graphs)
    if compared is not None:
        _add_shares(inspected, {record.node: record.share for record in compared})
    batches = _batches(images)
    if time and not batches:
        raise InputError("time=True is measured on images: give inspect(..., images=batch) as well")
    measured = None
    if batches:
        reference = next((i for i in reversed(inspected) if stage_of(i.gm) in _FLOAT), None)
        if reference is None:
            raise InputError(
                "images are measured against the float model: give its graph, or the prepared one, beside the quantised graph"
            )
        measured = Measured(reference, batches, time)
    return Inspection(_title(inspected), page_data(_title(inspected), inspected, measured, _passes(passes)))


def _inspected(graphs: Iterable[nn.Module]) -> list[Inspected]:
    found: list[Inspected] = []
    for module in graphs:
        gm, backend = graph_of(module, "inspect")
        stage = stage_of(gm)
        title = "compiled" if gm is not module else _TITLES[stage] if stage is not None else "not traced by fxquant"
        same = sum(other.title.partition(" #")[0] == title for other in found)
        found.append(Inspected(f"{title} #{same + 1}" if same else title, gm, graph_rows(gm, backend), module))
    return found


def _add_shares(inspected: list[Inspected], shares: Mapping[str, float | None]) -> None:
    """Give the last quantised graph that has all the nodes its shares."""
    known = {name: share for name, share in shares.items() if share is not None}
    for index, each in reversed(list(enumerate(inspected))):
        if stage_of(each.gm) not in _FLOAT and shares.keys() <= {node.name for node in each.gm.graph.nodes}:
            inspected[index] = replace(each, shares=known)
            return
    raise InputError(
        "expected a comparison of one of these graphs, found one of a graph with other nodes: compare again"
    )


def _batches(images: Batch | Iterable[Batch] | None) -> list[Batch]:
    return [] if images is None else [images] if isinstance(images, Tensor | Mapping) else list(images)


def _passes(passes: bool | str | os.PathLike[str]) -> list[PassDifference]:
    if passes is False:
        return []
    folder = os.environ.get("FXQUANT_TRACE") if passes is True else os.fspath(passes)
    if not folder:
        raise InputError("passes=True reads the folder that FXQUANT_TRACE names: set it before the model is quantised")
    return pass_differences(Path(folder))


def _title(inspected: Iterable[Inspected]) -> str:
    named = (card_of(i.gm).model for i in inspected)
    classes = (type(i.gm).__name__ for i in inspected)
    return next(filter(None, named), None) or next(islice(classes, 1))
