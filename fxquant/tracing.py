"""From a module to a graph: symbolic tracing that inlines every module."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.errors import InputError, UnsupportedGraphError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INTERNAL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


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
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_module = self.failed_module or f"{self.path_of_module(m)} ({type(m).__name__})"
            raise

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
        graph = tracer.trace(model)
    except Exception as error:
        reason = _describe_failure(model, tracer, error)
        if example_inputs is None:
            raise UnsupportedGraphError(
                f"{reason}\nGive an example input, fxquant.trace(model, example_inputs=images), so that the model can be "
                "captured by torch.export instead, or rewrite that line without a branch on tensor values."
            ) from error
        from fxquant.exporting import export_graph

        return export_graph(model, as_arguments(example_inputs), reason)
    return fx.GraphModule(model, graph, type(model).__name__)


def as_arguments(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Return `example_inputs` as the tuple of positional arguments it stands for."""
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode or of a dtype that cannot be quantised."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, found {type(model).__name__}")
    training = next((name for name, m in model.named_modules() if m.training), None)
    if training is not None and not isinstance(model, fx.GraphModule):
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
    own = [f for f in frames if not f.filename.startswith(_INTERNAL)]
    line = f'{own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else "an unknown line"
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"symbolic tracing stopped in module {module}, at {line}: {message}"
