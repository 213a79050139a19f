"""From a module to a graph: symbolic tracing first, torch.export where that cannot follow."""

from __future__ import annotations

import traceback

import torch
from torch import fx, nn

from fxquant.errors import FxquantError, InputError, UnsupportedGraphError
from fxquant.graph.inputs import Arguments, Batch
from fxquant.graph.rewrite import LIBRARIES
from fxquant.tracing.code_tracer import CodeTracer
from fxquant.tracing.export import export_graph
from fxquant.tracing.symbolic import DialectTracer
from fxquant.tracing.untouched import untouched

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def capture(model: nn.Module, example_inputs: Batch | None = None) -> fx.GraphModule:
    """
    Return the graph of `model` as traced, before `canonicalize`.

    Symbolic tracing comes first. A model that it cannot follow is captured by `torch.export` where `example_inputs` are
    given. Raises `UnsupportedGraphError` naming the module and the source line otherwise, `InputError` where the example is not
    what the model takes.
    """
    check_model(model)
    arguments = Arguments.of(model)
    example = None if example_inputs is None else arguments.bind_example(example_inputs)
    tracer = DialectTracer(example)
    try:
        with untouched(model):
            graph = tracer.trace(model)
            graph._tracer_cls = CodeTracer
            return fx.GraphModule(model, graph, type(model).__name__)
    except FxquantError:
        raise
    except Exception as error:
        reason = _describe_failure(model, tracer, error)
        if example is None:
            raise UnsupportedGraphError(
                f"{reason}\nGive an example input, fxquant.trace(model, example_inputs=images), so that the model can be "
                "captured by torch.export instead, or rewrite that line without a branch on tensor values."
            ) from error
        return export_graph(model, arguments.positional(example), reason)


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


def _describe_failure(model: nn.Module, tracer: DialectTracer, error: Exception) -> str:
    module = tracer.failed_module or f"the root ({type(model).__name__})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    line = f'{own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else "an unknown line"
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"symbolic tracing stopped in module {module}, at {line}: {message}"
