"""From a module to a graph: symbolic tracing first, torch.export where that cannot follow."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import FxquantError, InputError, UnsupportedGraphError
from fxquant.graph.rewrite import LIBRARIES
from fxquant.tracing.code_tracer import CodeTracer
from fxquant.tracing.example_inputs import as_arguments, tensor_arguments
from fxquant.tracing.export import export_graph
from fxquant.tracing.symbolic import DialectTracer
from fxquant.tracing.untouched import untouched

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
        with untouched(model):
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
        return export_graph(model, as_arguments(example_inputs), reason)


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


def _describe_failure(model: nn.Module, tracer: DialectTracer, error: Exception) -> str:
    module = tracer.failed_module or f"the root ({type(model).__name__})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    line = f'{own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else "an unknown line"
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"symbolic tracing stopped in module {module}, at {line}: {message}"
