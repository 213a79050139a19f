"""From a module to a graph: symbolic tracing that inlines every module and every function that can be read."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.fx import _symbolic_trace

from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.dialect.vocabulary import name_of
from fxquant.errors import FxquantError, UnsupportedGraphError
from fxquant.graph.attributes import get_tensor, graph_module_over
from fxquant.graph.code_tracer import CodeTracer
from fxquant.graph.inputs import holds_tensor
from fxquant.graph.rewrite import LIBRARIES
from fxquant.tracing.outputs import keep_output_class
from fxquant.tracing.untouched import untouched

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_AUGMENTED = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)


def symbolic_graph(model: nn.Module, arguments: Mapping[str, Any] | None = None) -> fx.GraphModule:
    """
    Return the graph of `model` as torch.fx traces it, before any pass and over the tensors of the model; it is left as it is.

    arguments: those of an example, by the names of the parameters of forward. Raises `UnsupportedGraphError` naming the module
    and the source line where tracing stops.
    """
    tracer = DialectTracer(arguments)
    try:
        with untouched(model):
            graph = tracer.trace(model)
            graph._tracer_cls = CodeTracer
            state = {str(n.target): get_tensor(model, str(n.target)) for n in graph.find_nodes(op="get_attr")}
            return graph_module_over(state, graph, type(model).__name__, StagedGraph)
    except FxquantError:
        raise
    except Exception as error:
        raise UnsupportedGraphError(_describe_failure(model, tracer, error)) from error


class DialectProxy(fx.Proxy):
    """A proxy that records ``x += y`` as the in-place operator it is; fx itself would read it as ``x = x + y``."""


def _record_augmented(name: str) -> None:
    def method(self: DialectProxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, f"i{name}"), (self, other), {})

    setattr(DialectProxy, f"__i{name}__", method)


for _name in _AUGMENTED:
    _record_augmented(_name)


class DialectTracer(fx.Tracer):
    """
    Trace through every module, hooks included, so that the graph holds operators only; remember where tracing stopped.

    Functions that ``torch.fx.wrap`` hides are traced through as well, but for those that the dialect names. arguments: those of
    an example, by the names of the parameters of forward.
    """

    def __init__(self, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.arguments = arguments or {}
        self.failed_module: str | None = None

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace `root`."""
        with _wrapped_functions_opened():
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Inline every module."""
        return False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into `m`, with its hooks; the innermost module that fails is the one to name."""
        if m is self.root:  # its nodes belong to no module
            return forward(*args, **kwargs)
        try:
            with _traceable_batch_norm(m):
                return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_module = self.failed_module or f"{self.path_of_module(m)} ({type(m).__name__})"
            raise

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Wrap `node`."""
        return DialectProxy(node, self)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: dict[str, Any] | tuple[Any, ...] | None = None
    ) -> tuple[Any, list[Any]]:
        """
        Make a placeholder of each argument that is a tensor in the example, or holds one; the others keep their value.

        Those that the example leaves out keep their default value, and are placeholders where they have none.
        """
        args: list[Any] = []
        # root_fn is the forward of the class, which the module may have replaced, and knows no hooks.
        for parameter in inspect.signature(self.root.forward).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                rest = self.arguments.get(parameter.name, ())
                args += [self._argument(f"{parameter.name}_{i}", value) for i, value in enumerate(rest)]
            else:
                args.append(self._argument(parameter.name, self.arguments.get(parameter.name, parameter.default)))
        return keep_output_class(self, self.root), args

    def _argument(self, name: str, value: Any) -> Any:
        is_input = value is inspect.Parameter.empty or holds_tensor(value)
        return self.create_proxy("placeholder", name, (), {}) if is_input else value


@contextlib.contextmanager
def _wrapped_functions_opened() -> Iterator[None]:
    """Let `torch.fx` trace through the functions that were given to its ``wrap``; those that the dialect names stay calls."""
    wrapped = _symbolic_trace._wrapped_fns_to_patch
    opened = {key: names for key, names in wrapped.items() if _is_opened(names.get(key[1]))}
    for key in opened:
        del wrapped[key]
    try:
        yield
    finally:
        wrapped.update(opened)


def _is_opened(function: object) -> bool:
    return isinstance(function, FunctionType) and name_of(function) is None


@contextlib.contextmanager
def _traceable_batch_norm(module: nn.Module) -> Iterator[None]:
    """Give a batch norm a forward that does not branch on the number of axes, as torch's own does; its hooks are left."""
    if type(module) not in _BATCH_NORMS or "forward" in vars(module):
        yield
        return
    module.forward = functools.partial(_batch_norm, module)
    try:
        yield
    finally:
        del module.forward


def _batch_norm(m: Any, x: Any) -> Any:
    # Without running statistics a batch norm uses those of the batch, in evaluation mode too.
    training = m.running_mean is None
    momentum = (
        0.1 if m.momentum is None else m.momentum
    )  # None: an average over all batches, which a graph does not count
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, training, momentum, m.eps)


def _describe_failure(model: nn.Module, tracer: DialectTracer, error: Exception) -> str:
    module = tracer.failed_module or f"the root ({type(model).__name__})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    line = f'{own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else "an unknown line"
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"symbolic tracing stopped in module {module}, at {line}: {message}"
