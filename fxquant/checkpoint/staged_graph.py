"""The module of every graph that fxquant makes: copies and pickles of it know all that the graph knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.checkpoint.decode import decode, decode_tensors
from fxquant.checkpoint.encode import encode
from fxquant.checkpoint.scalars import Json
from fxquant.data.data_config import DataConfig
from fxquant.errors import CheckpointError, ConfigError
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import card_of, set_card
from fxquant.graph.stages import stage_of
from fxquant.inspection.summary import summarise
from fxquant.kernels import chosen_backend
from fxquant.kernels.forks import expect_threads
from fxquant.ops import make_output


class StagedGraph(fx.GraphModule):
    """
    A graph module with a stage and a `ModelCard`.

    Both outlive ``copy``, ``pickle`` and ``torch.save``, and the card each verb and `fxquant.save`. Pickles hold what a saved
    file holds: they need no code of the model, and raise `CheckpointError` for what cannot be stored.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        expect_threads()

    @property
    def card(self) -> ModelCard:
        """What the graph says of itself; set it to another card, such as ``dataclasses.replace(gm.card, model="mine")``."""
        return card_of(self)

    @card.setter
    def card(self, card: ModelCard) -> None:
        if not isinstance(card, ModelCard):
            raise ConfigError(f"card must be a ModelCard, got {card!r:.100}")
        set_card(self, card)

    @property
    def data_config(self) -> DataConfig | None:
        """Which images the model takes, None where nobody has said it."""
        return self.card.data_config

    @data_config.setter
    def data_config(self, config: DataConfig | None) -> None:
        self.card = replace(self.card, data_config=config)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes by index; empty where they are not known."""
        return self.card.class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self.card = replace(self.card, class_names=tuple(names))

    def __repr__(self) -> str:
        return super().__repr__() if stage_of(self) is None else str(summarise(self, chosen_backend()))

    def _repr_html_(self) -> str | None:
        return None if stage_of(self) is None else summarise(self, chosen_backend()).html()

    def __copy__(self) -> StagedGraph:
        """Return another module over the same graph and tensors."""
        twin = StagedGraph(self, self.graph, type(self).__name__)
        twin.meta = dict(self.meta)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what `fxquant.save` would write; torch's own way would trace the code anew, and know nothing of it."""
        if stage_of(self) is None:
            return super().__reduce__()
        devices = {t.device for t in (*self.parameters(), *self.buffers())} or {torch.device("cpu")}
        if len(devices) > 1:
            raise CheckpointError(
                f"expected a graph on one device, found tensors on {', '.join(sorted(map(str, devices)))}"
            )
        classes = {n.name: n.args[1] for n in self.graph.nodes if n.target is make_output}
        return _rebuild, (*encode(self), str(devices.pop()), classes)


def _rebuild(contents: Json, stored: dict[str, Tensor], device: str, classes: dict[str, str]) -> StagedGraph:
    """Return the graph that was pickled; classes: names of what it returns, by node, which are plainer in `contents`."""
    with torch.inference_mode(False):  # else nothing in it could be changed again outside of it
        values = {key: value.to(device) for key, value in decode_tensors(contents, stored).items()}
        gm = decode(contents, values, StagedGraph)
    for node in gm.graph.find_nodes(op="call_function", target=make_output):
        node.args = (node.args[0], classes[node.name], *node.args[2:])
    if classes:
        gm.recompile()
    return gm
