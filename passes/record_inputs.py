"""Put a recorder on each input of the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph import dataflow
from fxquant.graph.attributes import called_module
from fxquant.graph.observer_home import ObserverHome
from fxquant.graph.rewrite import edit
from fxquant.observers.input_recorder import InputRecorder


@dataclass(frozen=True)
class RecordInputs:
    """
    Let each input pass through a recorder, which checks the batches of calibration and remembers what they were like.

    Before:  y = linear(observers.fc_input(x), observers.fc_weight(w), b)
    Becomes: image = observers.input_x(x); y = linear(observers.fc_input(image), observers.fc_weight(w), b)

    strict: the converted model is to refuse values that calibration says are wrong, see `GuardInputs`.
    """

    strict: bool

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Run the pass."""
        return edit(gm, self._record)

    def _record(self, gm: fx.GraphModule) -> bool:
        if any(isinstance(called_module(node), InputRecorder) for node in gm.graph.nodes):
            return False
        inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
        masks = {n for n in inputs if dataflow.only_masks(n)}
        images = next((n for n in inputs if n not in masks), None)
        home = ObserverHome(gm)
        for node in inputs:
            recorder = InputRecorder(str(node.target), node is images, node in masks, self.strict)
            recorded = home.call(f"input_{node.target}", recorder, node)
            node.replace_all_uses_with(recorded, delete_user_cb=lambda user, own=recorded: user is not own)
        return bool(inputs)
