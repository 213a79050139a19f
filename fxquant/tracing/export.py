"""
From a module to a graph where symbolic tracing cannot follow it: torch.export, brought into the functional dialect.

Export runs the model on an example, so it follows any Python code whose course depends on shapes alone. What it records
is one level lower than our dialect; `respell_aten` brings it back.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram

from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.inputs import batch_size, has_batch
from fxquant.graph.meta import keep_provenance
from fxquant.graph.rewrite import LIBRARIES, location
from fxquant.ops import interpolate_scaled
from fxquant.passes.functionalize import functionalize
from fxquant.passes.respell_aten import respell_aten
from fxquant.tracing.exported_graph import as_graph_module
from fxquant.tracing.free_sizes import FreeAxes
from fxquant.tracing.lengths import lengths_as_sizes
from fxquant.tracing.outputs import flat_output
from fxquant.tracing.proof import kept, run_once, with_batch
from fxquant.tracing.untouched import attributes_kept

_TRACED_BATCH = 2  # export takes sizes 0 and 1 for constants


def export_graph(
    model: nn.Module, example_inputs: tuple[Any, ...], symbolic_reason: str, free: FreeAxes | None = None
) -> fx.GraphModule:
    """
    Return the graph of `model` that `torch.export` captures on `example_inputs`, in the functional dialect.

    The first axis of each input is the batch; the graph takes any batch size. Other sizes, and arguments that are no tensors,
    are those of the example. free: axes that may have another size too. symbolic_reason: why symbolic tracing was given up,
    for errors.

    Raises `UnsupportedGraphError` with both reasons where export fails too, `InputError` where the model does not accept the
    example.
    """
    _check_inputs(model, example_inputs)
    with kept(model):
        run_once(model, with_batch(example_inputs, min(_TRACED_BATCH, batch_size(example_inputs))))
        try:
            with flat_output(model) as outputs:
                program = _export(model, with_batch(example_inputs, _TRACED_BATCH), free or {})
        except Exception as error:
            raise UnsupportedGraphError(
                f"{symbolic_reason}\ntorch.export stopped as well, {_describe_failure(model, error)}\nRewrite these lines so "
                "that they follow from the shapes of the input: no branch on the values of a tensor, no fixed batch size."
            ) from error
        try:
            return _normalize(model, program, outputs[0])
        except UnsupportedGraphError as error:
            raise UnsupportedGraphError(f"{symbolic_reason}\ntorch.export follows the model, but {error}") from error


def _export(model: nn.Module, inputs: tuple[Any, ...], free: FreeAxes) -> ExportedProgram:
    # DYNAMIC, not AUTO, which would fix a size without a word.
    batched = [{0: Dim.DYNAMIC} if has_batch(value, inputs) else {} for value in inputs]
    axes = [rows | free.get(index, {}) or None for index, rows in enumerate(batched)]
    names = list(inspect.signature(model.forward).bind(*inputs).arguments.items())
    shapes = {name: tuple(axes[i:]) if type(value) is tuple else axes[i] for i, (name, value) in enumerate(names)}
    # A cache may have taken in a tensor without values.
    with torch.no_grad(), _quiet(), attributes_kept(model), _factors_from_sizes(), lengths_as_sizes(model):
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)


def _normalize(model: nn.Module, program: ExportedProgram, output: Any) -> fx.GraphModule:
    try:
        gm = _functional(model, program, output)
    except UnsupportedGraphError:
        # Torch's own functionalisation takes views that are written to, and autocast. It is not the first choice, because it
        # takes some operators apart.
        with _quiet():
            program = program.run_decompositions({})
        gm = _functional(model, program, output)
    for node in gm.graph.nodes:
        keep_provenance(node)
    return gm


def _functional(model: nn.Module, program: ExportedProgram, output: Any) -> fx.GraphModule:
    gm: fx.GraphModule = functionalize(respell_aten(as_graph_module(model, program, output)).graph_module).graph_module
    overloads = ((node, node.target) for node in gm.graph.nodes if isinstance(node.target, OpOverload))
    left = next((node for node, overload in overloads if overload._schema.is_mutable), None)
    if left is not None:
        raise UnsupportedGraphError(
            f"the in-place operator {left.target} at node {left.name!r}{location(left)} cannot be replaced: it changes "
            f"{left.args[0]}, which is a parameter, a buffer or a view; write that line without changing a tensor in place"
        )
    return gm


def _check_inputs(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    nested = next((value for value in inputs if not isinstance(value, Tensor | int | float | str | None)), None)
    if nested is not None or not any(isinstance(value, Tensor) and value.ndim for value in inputs):
        found = ", ".join(type(value).__name__ for value in inputs) or "nothing"
        raise InputError(f"expected tensors as example inputs of {type(model).__name__}, batch first, found {found}")


@contextlib.contextmanager
def _factors_from_sizes() -> Iterator[None]:
    """Let interpolation take factors that were computed from free sizes, which export would fix to those of the example."""
    interpolate = F.interpolate

    def by_factors(
        input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **kwargs: Any
    ) -> Tensor:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
        if not any(isinstance(factor, torch.SymFloat) for factor in factors):
            return interpolate(input, size, scale_factor, mode, *args, **kwargs)
        antialias = kwargs.pop("antialias", False)
        if any(args) or any(kwargs.values()) or len(factors) != 2 or input.dim() != 4:
            raise TypeError("interpolation by factors of free sizes: expected two factors, without align_corners")
        height, width = factors
        return interpolate_scaled(input, height, width, mode, antialias)

    F.interpolate = by_factors
    try:
        yield
    finally:
        F.interpolate = interpolate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Export logs whole graphs where it fails; the error that we raise says the same in three lines.
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _describe_failure(model: nn.Module, error: Exception) -> str:
    """Return ``in module blocks.0.attn (Attention), at file:line: "code": message``."""
    lines = [text.strip() for text in str(error).strip().splitlines()] or [type(error).__name__]
    if "specialized it to be a constant" in str(error):
        # Found when the whole model was traced, so there is no line to name.
        return (
            "because forward works for one batch size only: somewhere it computes a number from the batch size in Python, "
            "such as int(x.shape[0]), or gives a tensor a fixed number of rows"
        )
    names = {id(module): name for name, module in model.named_modules()}
    module, line = f"the root ({type(model).__name__})", "an unknown line"
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in names:
            module = f"{names[id(owner)] or 'the root'} ({type(owner).__name__})"
        if not frame.f_code.co_filename.startswith(LIBRARIES):
            source = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
            line = f'{source.filename}:{number}: "{source.line}"'
    return f"in module {module}, at {line}: {lines[0]}"
