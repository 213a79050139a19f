"""The submodule of a graph that holds its observers."""

from __future__ import annotations

from torch import fx, nn

from fxquant.graph.meta import drop_record, inherit_meta
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder


class ObserverHome:
    """The submodule that holds the observers of a graph module."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.graph, self.training = gm.graph, gm.training
        self.device = next((t.device for t in (*gm.parameters(), *gm.buffers())), None)
        self.path = "observers"
        while not isinstance(getattr(gm, self.path, _Home()), _Home):  # a model may call a part of its own so
            self.path += "_"
        self.module = getattr(gm, self.path, None) or _Home()
        gm.add_module(self.path, self.module)

    def call(self, name: str, module: Observer | InputRecorder, source: fx.Node) -> fx.Node:
        """Add `module` under the first free name and return a new call of it on `source`, whose readers stay as they are."""
        while hasattr(self.module, name):
            name += "_"
        self.module.add_module(name, module.to(self.device).train(self.training))
        with self.graph.inserting_after(source):
            node = self.graph.call_module(f"{self.path}.{name}", (source,))
        inherit_meta(node, source)
        drop_record(node)
        return node


class _Home(nn.Module):
    """What `ObserverHome` adds to a graph module."""
