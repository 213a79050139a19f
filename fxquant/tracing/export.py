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
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.meta import keep_provenance
from fxquant.graph.rewrite import LIBRARIES, location
from fxquant.ops.make_output import output_leaves
from fxquant.passes.functionalize import functionalize
from fxquant.passes.respell_aten import respell_aten
from fxquant.tracing.exported_graph import as_graph_module
from fxquant.tracing.outputs import flat_output
from fxquant.tracing.untouched import attributes_kept

_TRACED_BATCH = 2  # export takes sizes 0 and 1 for constants
_CHECKED_BATCHES = (1, 3)
# Largest difference from the model, relative to its largest output, that rounding explains where kernels vary between runs.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def export_graph(model: nn.Module, example_inputs: tuple[Any, ...], symbolic_reason: str) -> fx.GraphModule:
    """
    Return the graph of `model` that `torch.export` captures on `example_inputs`, in the functional dialect.

    The first axis of each input is the batch; the graph takes any batch size, and before it is returned it is compared with
    the model at two others than the one it was captured with. Other sizes, and arguments that are no tensors, are those of
    the example. symbolic_reason: why symbolic tracing stopped, for errors.

    Raises `UnsupportedGraphError` with both reasons where export fails too, `InputError` where the model does not accept the
    example.
    """
    _check_inputs(model, example_inputs)
    with attributes_kept(model), _buffers_kept(model):
        # As it is, before it is traced: it must accept the example, and what a forward keeps from its first call is there.
        _run_model(model, _with_batch(example_inputs, min(_TRACED_BATCH, _batch_of(example_inputs))))
        try:
            with flat_output(model) as outputs:
                program = _export(model, _with_batch(example_inputs, _TRACED_BATCH))
        except Exception as error:
            raise UnsupportedGraphError(
                f"{symbolic_reason}\ntorch.export stopped as well, {_describe_failure(model, error)}\nRewrite these lines so "
                "that they follow from the shapes of the input: no branch on the values of a tensor, no fixed batch size."
            ) from error
        try:
            gm = _normalize(model, program, outputs[0])
        except UnsupportedGraphError as error:
            raise UnsupportedGraphError(f"{symbolic_reason}\ntorch.export follows the model, but {error}") from error
        for batch in _CHECKED_BATCHES:
            _compare(model, gm, _with_batch(example_inputs, batch), symbolic_reason)
    return gm


def _export(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    batch = _batch_of(inputs)
    arguments = inspect.signature(model.forward).bind(*inputs).arguments
    free = {0: Dim.DYNAMIC}  # not AUTO, which would fix the batch size without a word
    shapes = pytree.tree_map(lambda value: free if _is_batched(value, batch) else None, dict(arguments))
    with torch.no_grad(), _quiet(), attributes_kept(model):  # a cache may have taken in a tensor without values
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


def _batch_of(inputs: tuple[Any, ...]) -> int:
    return int(next(value for value in inputs if isinstance(value, Tensor) and value.ndim).shape[0])


def _is_batched(value: object, batch: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch


def _with_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Return `inputs` with `batch` rows: the first ones, then repeated ones that are scaled, so that no two are equal."""
    present = _batch_of(inputs)

    def resize(value: Any) -> Any:
        if not _is_batched(value, present):
            return value
        rows = torch.arange(batch, device=value.device)
        resized = value.detach()[rows % present]
        if not value.is_floating_point():
            return resized
        scale = 1 - (rows // present).to(value.dtype) / (2 * batch)
        return resized * scale.reshape(-1, *[1] * (value.ndim - 1))

    return tuple(resize(value) for value in inputs)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> list[Any]:
    # On a copy, for a forward that changes its input.
    copies = (value.clone() if isinstance(value, Tensor) else value for value in inputs)
    with torch.no_grad():
        return list(output_leaves(model(*copies)))


def _run_model(model: nn.Module, inputs: tuple[Any, ...]) -> list[Any]:
    try:
        return _run(model, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs if isinstance(value, Tensor))
        raise InputError(
            f"{type(model).__name__} does not accept an input of shape {shapes}: {type(error).__name__}: {error}"
        ) from error


def _compare(model: nn.Module, gm: fx.GraphModule, inputs: tuple[Any, ...], symbolic_reason: str) -> None:
    """Raise `UnsupportedGraphError` where the graph does not give what the model gives."""
    with _slow_attention():
        expected = _run_model(model, inputs)
        try:
            difference = _difference(expected, _run(gm, tuple(v for v in inputs if isinstance(v, Tensor))))
        except Exception as error:
            difference = f"the graph stops with {type(error).__name__}: {error}"
        if difference is None:
            return
        if _difference(expected, _run_model(model, inputs)) is not None:
            raise UnsupportedGraphError(
                f"{symbolic_reason}\ntorch.export follows the model, but the model gives another result each time it runs on "
                "the same images; take what is random out of its forward"
            )
    raise UnsupportedGraphError(
        f"{symbolic_reason}\ntorch.export captured a graph that does not give what the model gives: with "
        f"{_batch_of(inputs)} images, {difference}\nLook in forward for numbers that were computed from the batch size in "
        "Python, and for code that runs only while a model is exported."
    )


def _difference(expected: list[Any], found: list[Any]) -> str | None:
    if len(expected) != len(found):
        return f"the model returns {len(expected)} values and the graph {len(found)}"
    for one, other in zip(expected, found, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            if one != other:
                return f"the model returns {one!r} and the graph {other!r}"
        elif one.shape != other.shape or one.dtype != other.dtype:
            return (
                f"the model returns {one.dtype} of shape {tuple(one.shape)} and the graph {other.dtype} of shape "
                f"{tuple(other.shape)}"
            )
        elif not bool(((one == other) | ((one != one) & (other != other))).all()):  # NaN equals NaN here
            error = float((one.double() - other.double()).abs().max()) / max(float(one.double().abs().max()), 1e-30)
            if not error <= _ROUNDING.get(one.dtype, 0.0):
                return f"outputs differ by {error:.1e} of the largest"
    return None


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    # A forward that counts its calls is refused in the end, but it has been called by then.
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextlib.contextmanager
def _slow_attention() -> Iterator[None]:
    # nn.MultiheadAttention has a fused kernel for inference, which no graph can hold.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


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
