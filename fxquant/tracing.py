"""From a module to a graph: symbolic tracing that inlines every module."""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import traceback
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxquant import ops
from fxquant.errors import FxquantError, InputError, UnsupportedGraphError
from fxquant.rewrite import LIBRARIES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_AUGMENTED = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


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
        for parameter in inspect.signature(forward).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                rest = self.arguments.get(parameter.name, ())
                args += [self._argument(f"{parameter.name}_{i}", value) for i, value in enumerate(rest)]
            else:
                args.append(self._argument(parameter.name, self.arguments.get(parameter.name, parameter.default)))
        return forward, args

    def _argument(self, name: str, value: Any) -> Any:
        is_input = value is inspect.Parameter.empty or _holds_tensor(value)
        return self.create_proxy("placeholder", name, (), {}) if is_input else value


class CodeTracer(fx.Tracer):
    """Read the code of a pickled graph: what it does with buffers, and the operators of `fxquant.ops`, are nodes again."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(getattr(ops, name) for name in ops.__all__))


def capture(model: nn.Module, example_inputs: Tensor | Sequence[Any] | None = None) -> fx.GraphModule:
    """
    Return the graph of `model` as traced, before `canonicalize`.

    Symbolic tracing comes first. A model that it cannot follow is captured by `torch.export` where `example_inputs` are
    given. Raises `UnsupportedGraphError` naming the module and the source line otherwise, `InputError` where the example is no
    list of arguments of the model.
    """
    check_model(model)
    tracer = DialectTracer(_bind(model, example_inputs))
    try:
        with _untouched(model):
            graph = tracer.trace(model)
            graph._tracer_cls = CodeTracer
            return fx.GraphModule(model, graph, type(model).__name__)
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


def tensor_arguments(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Return those of the example's arguments that are inputs of a graph traced with it: the ones with a tensor in them."""
    return tuple(value for value in as_arguments(example_inputs) if _holds_tensor(value))


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


def _bind(model: nn.Module, example_inputs: Tensor | Sequence[Any] | None) -> dict[str, Any]:
    """Return the arguments of forward that `example_inputs` gives, by name."""
    if example_inputs is None:
        return {}
    if not isinstance(example_inputs, Tensor | tuple | list) or not tensor_arguments(example_inputs):
        kinds = ", ".join(type(v).__name__ for v in example_inputs) if isinstance(example_inputs, tuple | list) else ""
        raise InputError(
            "expected a tensor or a tuple of arguments with a tensor in it as example inputs, found "
            f"{type(example_inputs).__name__}{kinds and f' of {kinds}'}"
        )
    signature = inspect.signature(model.forward)
    try:
        return signature.bind(*as_arguments(example_inputs)).arguments
    except TypeError as error:
        names = ", ".join(signature.parameters)
        raise InputError(
            f"the example inputs do not fit the arguments ({names}) of {type(model).__name__}: {error}"
        ) from error


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def _batch_norm(m: Any, x: Any) -> Any:
    # Without running statistics a batch norm uses those of the batch, in evaluation mode too.
    training = m.running_mean is None
    momentum = (
        0.1 if m.momentum is None else m.momentum
    )  # None: an average over all batches, which a graph does not count
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, training, momentum, m.eps)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give each module of `model` its attributes back in the end, and lists, dictionaries and sets what they held."""
    found: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _remember(vars(module), found)
    try:
        yield
    finally:
        for container, saved in found.values():
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(saved)


def _remember(value: Any, found: dict[int, tuple[Any, Any]]) -> None:
    if type(value) not in _CONTAINERS or id(value) in found:
        return
    found[id(value)] = (value, copy.copy(value))
    for inner in value.values() if isinstance(value, dict) else value:
        _remember(inner, found)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """
    Leave `model` as it was: tracing puts constants on it, and runs what its forward does without reading the input.

    What a forward keeps for its next call may be a proxy, which would be of no use to the model.
    """
    random_state = torch.get_rng_state()
    buffers = [(name, b, b._version, b.clone()) for name, b in model.named_buffers() if not b.is_inference()]
    try:
        with attributes_kept(model):
            yield
    finally:
        changed = [
            (name, buffer.copy_(saved)) for name, buffer, version, saved in buffers if buffer._version != version
        ]
        drawn = not torch.equal(random_state, torch.get_rng_state())
        torch.set_rng_state(random_state)
    if changed:
        raise UnsupportedGraphError(
            f"the forward of {type(model).__name__} changes its buffer {changed[0][0]!r}, which a graph of values cannot: "
            "compute the new value without storing it"
        )
    if drawn:
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
