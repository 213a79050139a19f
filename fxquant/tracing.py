"""From a module to a graph: symbolic tracing that inlines every module."""

from __future__ import annotations

import functools
import inspect
import operator
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.errors import FxquantError, InputError, UnsupportedGraphError
from fxquant.rewrite import LIBRARIES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
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
    """Trace through every module, so that the graph holds operators only; remember where tracing stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True
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
        """Make a placeholder of each required argument; optional ones keep their default value in the graph."""
        args: list[Any] = [self.root]
        for parameter in list(inspect.signature(root_fn).parameters.values())[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
                continue
            if parameter.default is parameter.empty:
                args.append(self.create_proxy("placeholder", parameter.name, (), {}))
            else:
                args.append(parameter.default)
        return root_fn, args


def capture(model: nn.Module, example_inputs: Tensor | Sequence[Any] | None = None) -> fx.GraphModule:
    """
    Return the graph of `model` as traced, before `canonicalize`.

    Symbolic tracing comes first. A model that it cannot follow is captured by `torch.export` where `example_inputs` are
    given. Raises `UnsupportedGraphError` naming the module and the source line otherwise.
    """
    check_model(model)
    tracer = DialectTracer()
    try:
        with _untouched(model):
            return fx.GraphModule(model, tracer.trace(model), type(model).__name__)
    except FxquantError:
        raise
    except Exception as error:
        reason = _describe_failure(model, tracer, error)
        if example_inputs is None:
            raise UnsupportedGraphError(
                f"{reason}\nGive an example input, fxquant.trace(model, example_inputs=images), so that the model can be "
                "captured by torch.export instead, or rewrite that line without a branch on tensor values."
            ) from error
        from fxquant.exporting import export_graph

        return export_graph(model, as_arguments(example_inputs), reason)


def as_arguments(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Return `example_inputs` as the tuple of positional arguments it stands for."""
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode or of a dtype that cannot be quantised."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, found {type(model).__name__}")
    # A plain nn.Module is only a namespace, which torch.fx makes in training mode.
    training = next((name for name, m in model.named_modules() if m.training and type(m) is not nn.Module), None)
    if training is not None:
        raise InputError(
            f"expected a model in evaluation mode, found module {training or type(model).__name__!r} in training mode: "
            "call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype not in DTYPES:
            raise InputError(
                f"expected float32, bfloat16 or float16 weights, found {tensor.dtype} in {name!r}: convert the model "
                "first, for example model.float()"
            )


def _batch_norm(m: Any, x: Any) -> Any:
    # Without running statistics a batch norm uses those of the batch, in evaluation mode too.
    training = m.running_mean is None
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, training, 0.0, m.eps)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Leave `model` as it was: tracing puts constants on it, and runs what its forward does without reading the input."""
    attributes, random_state = set(vars(model)), torch.get_rng_state()
    buffers = [(name, b, b._version, b.clone()) for name, b in model.named_buffers() if not b.is_inference()]
    try:
        yield
    finally:
        for name in set(vars(model)) - attributes:
            delattr(model, name)  # the graph module has its own
        changed = [
            (name, buffer.copy_(saved)) for name, buffer, version, saved in buffers if buffer._version != version
        ]
    if changed:
        raise UnsupportedGraphError(
            f"the forward of {type(model).__name__} changes its buffer {changed[0][0]!r}, which a graph of values cannot: "
            "compute the new value without storing it"
        )
    if not torch.equal(random_state, torch.get_rng_state()):
        torch.set_rng_state(random_state)
        raise UnsupportedGraphError(
            f"the forward of {type(model).__name__} draws random numbers, which tracing would fix for good: draw them outside"
        )


def _describe_failure(model: nn.Module, tracer: DialectTracer, error: Exception) -> str:
    module = tracer.failed_module or f"the root ({type(model).__name__})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    line = f'{own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else "an unknown line"
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"symbolic tracing stopped in module {module}, at {line}: {message}"
