"""Shapes and dtypes of every value in a graph, found without computing anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from fxquant.errors import InputError, reason_of
from fxquant.graph.calls import arguments_of, named
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.inputs import batch_size, has_batch
from fxquant.graph.meta import known_value, set_hidden_macs, set_value, value_of
from fxquant.graph.multiply_accumulates import MacCounter
from fxquant.ops import (
    check_input,
    dequantize,
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    make_output,
    quantize,
)

# Added to a free size for other runs: a model may take only whole patches, and sizes that fit windows say nothing of padding.
_GROWTH = (1, 2, 4, 8, 16, 32)


def propagate_shapes(gm: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """
    Write each node's value, as a tensor on the meta device, where `fxquant.graph.meta.value_of` reads it.

    `inputs` are example arguments; only their shape, dtype and device matter. Raises `InputError` where the model does not
    accept them.
    """
    with torch.no_grad():
        _Propagate(gm).run(*inputs)


def varying_axes(gm: fx.GraphModule, inputs: Sequence[Tensor], index: int) -> tuple[int, ...]:
    """
    Return the axes of input `index` that may have another size than in `inputs`: the batch, and those found free.

    An axis is free where the model, run on shapes alone, accepts twice its size.
    """
    batched = has_batch(inputs[index], inputs)
    free = [0] if batched else []
    for axis in range(int(batched), inputs[index].dim()):
        sizes = [n * (2 if i == axis else 1) for i, n in enumerate(inputs[index].shape)]
        other = torch.empty(sizes, dtype=inputs[index].dtype, device=inputs[index].device)
        if _accepts(gm, [*inputs[:index], other, *inputs[index + 1 :]]):
            free.append(axis)
    return tuple(free)


def _accepts(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> bool:
    return _numbers(gm, inputs) is not None


def _numbers(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, Any] | None:
    """Return what `_Numbers` collects, None where the model does not accept inputs of these shapes."""
    # torch logs each operator that refuses a shape as an error; here a refusal is an answer.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        return _Numbers(gm).collect(inputs)
    except (InputError, AssertionError):
        return None
    finally:
        logger.disabled = disabled


@dataclass(frozen=True)
class Sizes:
    """
    The numbers that a graph computes from its inputs' shapes, found with inputs of several sizes.

    constant: those that are the same in every run. varying: the others, one value per run. shapes: of every tensor, with None
    for an axis whose size varies. batches: the batch size of each run.
    """

    constant: dict[fx.Node, int | bool] = field(default_factory=dict)
    varying: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    shapes: dict[fx.Node, tuple[int | None, ...]] = field(default_factory=dict)
    batches: tuple[int, ...] = ()


def sizes_of(gm: fx.GraphModule) -> Sizes | None:
    """Return the sizes in a graph whose inputs are checked by `fxquant.ops.check_input`; None where shapes are unknown."""
    checks = (arguments_of(n) for n in gm.graph.nodes if n.target is check_input)
    checked = {given["x"]: given["shape"] for given in checks}
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    if not checked or any(n not in checked or value_of(n) is None for n in inputs):
        return None
    device = next((t.device for t in (*gm.parameters(), *gm.buffers())), torch.device("cpu"))
    examples = [torch.empty_like(known_value(n), device=device) for n in inputs]
    free = [(i, axis) for i, n in enumerate(inputs) for axis, size in enumerate(checked[n]) if size is None]
    # Twice, and one more than that: nothing but the batch itself grows like that.
    batch = batch_size(examples)
    batched = [has_batch(t, examples) for t in examples]
    counts = (batch, 2 * batch, 2 * batch + 1)
    runs = [[_resized(t, 0, n) if own else t for t, own in zip(examples, batched, strict=True)] for n in counts]
    accepted = [(batch_size(run), numbers) for run in runs if (numbers := _numbers(gm, run)) is not None]
    for index, axis in free:
        size = examples[index].shape[axis]
        grown = [
            [_resized(t, axis, larger) if i == index else t for i, t in enumerate(examples)]
            for larger in ((*(size + more for more in _GROWTH), 2 * size) if axis or not batched[index] else ())
        ]
        accepted += [(batch, numbers) for run in grown if (numbers := _numbers(gm, run)) is not None]
    found = [numbers for _, numbers in accepted]
    sizes = Sizes(batches=tuple(batch for batch, _ in accepted))
    if len(set(sizes.batches)) < 3:
        return None  # the batch size is not free
    for node, first in found[0].items():
        values: list[Any] = [each[node] for each in found]
        if isinstance(first, tuple):
            if len({len(shape) for shape in values}) > 1:
                continue  # an axis of size 1 was squeezed in some runs
            sizes.shapes[node] = tuple(n[0] if len(set(n)) == 1 else None for n in zip(*values, strict=True))
        elif len(set(values)) == 1:
            sizes.constant[node] = first
        else:
            sizes.varying[node] = tuple(values)
    return sizes


def _resized(t: Tensor, axis: int, size: int) -> Tensor:
    return t.new_empty([size if i == axis else n for i, n in enumerate(t.shape)])


class _Propagate(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, write: bool = True) -> None:
        super().__init__(gm)
        self.write = write
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def run(self, *args: Any) -> Any:  # type: ignore[override]
        fakes = tree_map_only(Tensor, self.mode.from_tensor, args)
        with self.mode:
            return super().run(*fakes)

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = self._run_counting(n) if self.write and _may_hide_products(n) else super().run_node(n)
        except Exception as error:
            shapes = [str(tuple(known_value(p).shape)) for p in self.module.graph.nodes if _is_input(p)]  # type: ignore[union-attr]
            raise InputError(
                f"the model does not accept an input of shape {', '.join(shapes) or 'unknown'}: node {n.name!r} "
                f"stops with {type(error).__name__}: {reason_of(error)}"
            ) from error
        if self.write:
            set_value(n, tree_map_only(Tensor, _as_meta, result))
        return result

    def _run_counting(self, n: fx.Node) -> Any:
        with MacCounter() as counter:
            result = super().run_node(n)
        set_hidden_macs(n, counter.total)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is make_output:
            return args[-1]  # the values alone: a class may look at them
        known = _known_result(target, args) if not kwargs else None
        return super().call_function(target, args, kwargs) if known is None else known

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Observers give back what they get.
        return args[0]


def _known_result(target: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Return what an operator of one scale gives, without going through its arithmetic; None for any other call."""
    if target not in (quantize, dequantize, int8_linear, int8_linear_add, int8_linear_gelu_quantize):
        return None
    given = named(target, args, {})
    if target in (quantize, dequantize):
        if given["axis"] is not None or given.get("noise") is not None:
            return None
        values: Tensor = given["x"] if target is quantize else given["codes"]
        return torch.empty_like(values, dtype=torch.int8 if target is quantize else torch.float32)
    codes: Tensor = given["codes"]
    if not 0 <= given["weight"].shape[1] - codes.shape[-1] < 8:
        return None
    dtype = torch.int8 if target is int8_linear_gelu_quantize else given["dtype"]
    return codes.new_empty((*codes.shape[:-1], given["scale"].shape[0]), dtype=dtype)


class _Numbers(_Propagate):
    """Run a graph on shapes alone and collect the whole numbers and truth values it computes, and the shapes of tensors."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, write=False)
        self.numbers: dict[fx.Node, int | bool | tuple[int, ...]] = {}

    def collect(self, inputs: Sequence[Tensor]) -> dict[fx.Node, int | bool | tuple[int, ...]]:
        with torch.no_grad():
            self.run(*inputs)
        return self.numbers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, int | bool):
            self.numbers[n] = result
        elif isinstance(result, Tensor):
            self.numbers[n] = tuple(int(size) for size in result.shape)
        return result


def _may_hide_products(node: fx.Node) -> bool:
    """Say whether `node` calls an operator, neither a product of its own nor one of ours, that may compute products inside."""
    if node.op not in ("call_function", "call_method") or node.target in PRODUCTS:
        return False
    return not str(getattr(node.target, "__module__", "")).removeprefix("torch._ops.").startswith("fxquant")


def _as_meta(value: Tensor) -> Tensor:
    with unset_fake_temporarily():
        return torch.empty(tuple(int(n) for n in value.shape), dtype=value.dtype, device="meta")


def _is_input(node: fx.Node) -> bool:
    return node.op == "placeholder" and value_of(node) is not None
