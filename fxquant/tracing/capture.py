"""From a module to a graph that was compared with it: symbolic tracing first, torch.export where that is not right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from fxquant import pipeline
from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.inputs import Arguments, Batch, has_batch, holds_tensor
from fxquant.graph.meta import Capture, set_capture, set_model_dtype
from fxquant.graph.stages import Stage
from fxquant.ops import check_input
from fxquant.tracing.export import export_graph
from fxquant.tracing.free_sizes import Dynamic, FreeAxes, free_axes, other_sizes
from fxquant.tracing.made_example import made_example
from fxquant.tracing.proof import Proof, prove
from fxquant.tracing.symbolic import symbolic_graph

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def capture(model: nn.Module, example_inputs: Batch | None = None, dynamic: Dynamic = ()) -> fx.GraphModule:
    """
    Return the graph of `model` at stage FLOAT, compared with it.

    Symbolic tracing comes first. A model that it cannot follow, that its graph does not reproduce, or that hides products
    inside functions is captured by `torch.export` on `example_inputs`. Where none are given, they are made if the model accepts
    images of a size that it declares; otherwise the graph is not compared, which its `Capture` tells. dynamic: axes beside the
    batch that may have any size, see `fxquant.tracing.free_sizes.free_axes`; the graph is compared on several.

    Raises `UnsupportedGraphError` naming the module and the source line where both fail, `InputError` where the example is not
    what the model takes, and where the model does not take several sizes along `dynamic`.
    """
    check_model(model)
    taken = Arguments.of(model)
    bound = {} if example_inputs is None else taken.bind_example(example_inputs)
    example = made_example(model) if example_inputs is None else None
    inputs = taken.positional(bound) if bound else None if example is None else (example,)
    gm, reason = _trace_symbolically(model, bound)
    if inputs is None:
        if dynamic:
            raise InputError("expected an example input beside dynamic, to compare the graph with the model on")
        if gm is None:
            raise UnsupportedGraphError(
                f"{reason}\nGive an example input, fxquant.trace(model, example_inputs=images), so that the model can be "
                "captured by torch.export instead, or rewrite that line without a branch on tensor values."
            )
        set_capture(gm, Capture("symbolic", verified=False))
        return gm
    free = free_axes(model, dynamic, inputs)
    others = other_sizes(model, inputs, free)
    proof = None if gm is None else prove(model, gm, inputs, others)
    if gm is not None and proof is not None:
        if proof.difference is None and not proof.closed:
            set_capture(gm, Capture("symbolic", True, proof.missing))
            return gm
        reason = (
            f"symbolic tracing gives a graph that differs from the model: {proof.difference or 'it hides products'}"
        )
    try:
        exported, found = _export(model, inputs, reason, free, others)
    except UnsupportedGraphError:
        if gm is None or proof is None or proof.difference is not None:
            raise
        set_capture(gm, Capture("symbolic", True, proof.missing))  # right, though closed functions are in it
        return gm
    set_capture(exported, Capture("export", True, found.missing))
    return exported


def _trace_symbolically(model: nn.Module, arguments: Mapping[str, Any]) -> tuple[fx.GraphModule | None, str]:
    """Return the graph that symbolic tracing gives, at stage FLOAT, or None and the reason."""
    try:
        gm = symbolic_graph(model, arguments)
        if not any(n.op == "output" and n.all_input_nodes for n in gm.graph.nodes):
            return None, "symbolic tracing gives a graph whose output does not depend on the input"
        return _complete(model, gm), ""
    except UnsupportedGraphError as error:
        return None, str(error)


def _complete(model: nn.Module, gm: fx.GraphModule) -> fx.GraphModule:
    floating = (t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
    set_model_dtype(gm, next(floating, torch.float32))
    return pipeline.run(gm, pipeline.TRACE, Stage.FLOAT)


def _export(
    model: nn.Module, inputs: tuple[Any, ...], reason: str, free: FreeAxes, others: Sequence[tuple[Any, ...]]
) -> tuple[fx.GraphModule, Proof]:
    # With free sizes, on one that is neither square nor the model's own, for which its code may have a path of its own; and on
    # another where that has one too, such as windows that need no padding.
    refusals = []
    for traced in others if free else (inputs,):
        try:
            gm = _complete(model, export_graph(model, traced, reason, free))
        except UnsupportedGraphError as error:
            refusals.append(error)
            continue
        proof = prove(model, gm, inputs, others)
        if proof.difference is None:
            _fix_sizes(gm, inputs, free)
            return gm, proof
        refusals.append(
            UnsupportedGraphError(
                f"{reason}\ntorch.export captured a graph that does not give what the model gives: {proof.difference}\nLook "
                "in forward for numbers that were computed from sizes in Python, and for code that runs only while a model "
                "is exported."
            )
        )
    raise refusals[-1]


def _fix_sizes(gm: fx.GraphModule, inputs: tuple[Any, ...], free: FreeAxes) -> None:
    """Let an exported graph refuse inputs of other sizes than those it was captured on; the batch and `free` axes are free."""
    tensors = [(index, value) for index, value in enumerate(inputs) if holds_tensor(value)]
    for node, (index, value) in zip(gm.graph.find_nodes(op="placeholder"), tensors, strict=True):
        any_size = {*free.get(index, {}), *([0] if has_batch(value, inputs) else [])}
        shape = tuple(None if axis in any_size else size for axis, size in enumerate(value.shape))
        with gm.graph.inserting_after(node):
            checked = gm.graph.call_function(check_input, (node, shape, str(node.target)))
        node.replace_all_uses_with(checked, lambda user, checked=checked: user is not checked)
    gm.recompile()


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode or of a dtype that cannot be quantised."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, found {type(model).__name__}")
    training = next((name for name, m in model.named_modules() if m.training and not _ignores_training(m)), None)
    if training is not None:
        raise InputError(
            f"expected a model in evaluation mode, found module {training or type(model).__name__!r} in training mode: "
            "call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype.to_real() not in DTYPES:
            raise InputError(
                f"expected float32, bfloat16 or float16 weights, found {tensor.dtype} in {name!r}: convert the model "
                "first, for example model.float()"
            )


def _ignores_training(module: nn.Module) -> bool:
    """Say whether nothing reads the training flag of `module` itself: it is a namespace, or generated from a graph."""
    generated = type(module).__module__.startswith(("torch.fx.", "torch.export."))
    return generated or type(module) is nn.Module or isinstance(module, fx.GraphModule)
