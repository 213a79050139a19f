"""`torch.compile` with the settings and the kernels that are best on the device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxquant import kernels, pipeline
from fxquant.compiling.choose_cpu import all_linear_sites, sites_for_onednn
from fxquant.compiling.choose_triton import slower_sites
from fxquant.compiling.heap import trim_heap
from fxquant.errors import ConfigError, UnsupportedGraphError
from fxquant.graph.attributes import copied_graph
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import card_of
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.summary import summarise
from fxquant.kernels import cpu, triton, use_backend
from fxquant.kernels.cpu.build import NO_COMPILER, compiler
from fxquant.kernels.forks import is_forked, tell_of_fork
from fxquant.ops.make_output import map_output
from fxquant.ops.onednn_linear import is_available as has_onednn

logger = logging.getLogger(__name__)


def compile_graph(
    gm: fx.GraphModule, backend: str, example_inputs: Sequence[Any] | None, owned: bool = False
) -> CompiledGraph:
    """
    Return `gm` compiled; an int8 model runs on the kernels made for the device, unless `backend` is "aten".

    owned: nobody else reads `gm`, which is changed then: each weight is given up as soon as it is packed.
    """
    if backend not in kernels.BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}: expected one of {', '.join(map(repr, kernels.BACKENDS))}")
    if not isinstance(gm, fx.GraphModule):
        raise UnsupportedGraphError(
            f"compile expected a graph that fxquant made, or the path of one that it saved, found a {type(gm).__name__}"
        )
    device, onednn = _device(gm), frozenset[str]()
    mode = "max-autotune" if device == "cuda" else None
    if stage_of(gm) is Stage.LOWERED and backend == "auto":
        gm = gm if owned else copied_graph(gm)
        if example_inputs is not None:
            propagate_shapes(gm, example_inputs)
        if device == "cpu":
            own = cpu.is_available()
            onednn = sites_for_onednn(gm) if own else all_linear_sites(gm) if has_onednn() else onednn
            gm = pipeline.run(gm, pipeline.compile_for_cpu(onednn, own), Stage.LOWERED)
        elif device == "cuda" and example_inputs is not None and triton.obstacle(torch.cuda.current_device()) is None:
            gm = pipeline.run(gm, pipeline.compile_for_cuda(slower_sites(gm, example_inputs)), Stage.LOWERED)
    return CompiledGraph(gm, backend, mode, freeze=bool(onednn))


# Held by a thread that calls a graph on inputs of a new size. Threads that call at once would each compile, one after the
# other, and torch gives up after some graphs; whoever waits finds the graph that another one compiled.
_FIRST_CALLS = threading.RLock()


class CompiledGraph(nn.Module):
    """
    A compiled graph, for inference: it runs without gradients. Several threads may call it at once.

    graph_module: the graph with the kernels it was compiled with. freeze: the compiler packs weights for oneDNN, at the first
    call. Packed weights are not looked at again. compiled: what is called; the graph itself on a CPU without a C++ compiler,
    which torch.compile would need.
    """

    def __init__(self, graph_module: fx.GraphModule, backend: str, mode: str | None, freeze: bool) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.backend = backend
        self.mode = mode
        self.freeze = freeze
        self._seen: set[tuple[Any, ...]] = set()
        if mode is None and compiler() is None:
            logger.warning("torch.compile is left out, the kernels run without it, a little slower: %s", NO_COMPILER)
            self.compiled: Callable[..., Any] = graph_module
            return
        # A mode and options exclude each other; CUDA graphs, which the mode asks for, save more than guards cost.
        options: dict[str, Any] | None = None if mode else {"guard_filter_fn": guards_to_keep}
        self.compiled = torch.compile(graph_module, mode=mode, options=options)

    @property
    def card(self) -> ModelCard:
        """What the graph says of itself: data config and class names among it."""
        return card_of(self.graph_module)

    def __repr__(self) -> str:
        return str(summarise(self.graph_module, self.backend, "compiled"))

    def _repr_html_(self) -> str:
        return summarise(self.graph_module, self.backend, "compiled").html()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the compiled graph on its inputs, which may be given by name."""
        tell_of_fork()
        inputs = _kinds((args, kwargs))
        with torch.no_grad(), use_backend(self.backend):
            if is_forked() and self.mode is None:
                return self.graph_module(*args, **kwargs)
            if inputs in self._seen:
                return self._run(*args, **kwargs)
            with _FIRST_CALLS:
                result = self._run_first(*args, **kwargs)
                trim_heap()  # of what compiling took
            self._seen.add(inputs)
            return result

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.mode is not None:  # it records CUDA graphs, whose outputs the next call overwrites
            return map_output(self.compiled(*args, **kwargs), _own)
        return self.compiled(*args, **kwargs)

    def _run_first(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs for which something may have to be compiled."""
        if not self.freeze:
            return self._run(*args, **kwargs)
        import torch._inductor.config as inductor

        # dynamo reads the setting while it traces, before the options of torch.compile are in force
        with inductor.patch(freezing=True, always_keep_tensor_constants=True):
            return self._run(*args, **kwargs)


def _kinds(inputs: Any) -> tuple[Any, ...]:
    """Return what decides whether a graph that was compiled for other inputs takes these."""
    return tuple((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else type(x) for x in tree_leaves(inputs))


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def guards_to_keep(guards: Sequence[Any]) -> list[bool]:
    """
    Return which of dynamo's guards are checked at each call: of those on the model's tensors the first of each dtype.

    There are hundreds of them, which take as long as a few layers. The tensors of a model are moved together, and those of one
    dtype cast together, so that one tells of all.
    """
    kept, known = [], set[object]()
    for guard in guards:
        if not guard.name.startswith("self."):
            kept.append(True)
            continue
        dtype = getattr(guard.value, "dtype", None) if guard.guard_type == "TENSOR_MATCH" else None
        kept.append(dtype is not None and dtype not in known)
        known.add(dtype)
    return kept


def _device(gm: fx.GraphModule) -> str | None:
    """Return the kind of device that all tensors of `gm` are on, None where they are on several."""
    tensors: list[Tensor] = [*gm.parameters(), *gm.buffers()]
    kinds = {t.device.type for t in tensors}
    return kinds.pop() if len(kinds) == 1 else None
