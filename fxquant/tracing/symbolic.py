"""From a module to a graph: symbolic tracing that inlines every module."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from fxquant.graph.inputs import holds_tensor
from fxquant.tracing.outputs import keep_output_class

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_AUGMENTED = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)


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
    Trace through every module, so that the graph holds operators only; remember where tracing stopped.

    arguments: those of an example, by the names of the parameters of forward.
    """

    def __init__(self, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.arguments = arguments or {}
        self.failed_module: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Inline every module."""
        return False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into `m`; the innermost module that fails is the one to name."""
        if type(m) in _BATCH_NORMS:
            forward = functools.partial(_batch_norm, m)  # torch's own branches on the number of axes
        try:
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
        forward = self.root.forward  # root_fn is that of the class, which the module may have replaced
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        for parameter in inspect.signature(forward).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.kind is parameter.KEYWORD_ONLY:
                value = self.arguments.get(parameter.name, parameter.default)
                keywords[parameter.name] = self._argument(parameter.name, value)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                rest = self.arguments.get(parameter.name, ())
                args += [self._argument(f"{parameter.name}_{i}", value) for i, value in enumerate(rest)]
            else:
                args.append(self._argument(parameter.name, self.arguments.get(parameter.name, parameter.default)))
        return keep_output_class(self, functools.partial(forward, **keywords)), args

    def _argument(self, name: str, value: Any) -> Any:
        is_input = value is inspect.Parameter.empty or holds_tensor(value)
        return self.create_proxy("placeholder", name, (), {}) if is_input else value


def _batch_norm(m: Any, x: Any) -> Any:
    # Without running statistics a batch norm uses those of the batch, in evaluation mode too.
    training = m.running_mean is None
    momentum = (
        0.1 if m.momentum is None else m.momentum
    )  # None: an average over all batches, which a graph does not count
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, training, momentum, m.eps)
