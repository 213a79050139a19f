"""Shapes and dtypes of every value in a graph, found without computing anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from fxquant.errors import InputError


def propagate_shapes(gm: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """
    Write each node's value, as a tensor on the meta device, to ``node.meta["val"]``.

    `inputs` are example arguments; only their shape, dtype and device matter. Raises `InputError` where the model does not
    accept them.
    """
    with torch.no_grad():
        _Propagate(gm).run(*inputs)


def varying_axes(gm: fx.GraphModule, inputs: Sequence[Tensor], index: int) -> tuple[int, ...]:
    """
    Return the axes of input `index` that may have another size than in `inputs`: the batch, axis 0, and those found free.

    An axis is free where the model, run on shapes alone, accepts twice its size.
    """
    free = [0]
    for axis in range(1, inputs[index].dim()):
        sizes = [n * (2 if i == axis else 1) for i, n in enumerate(inputs[index].shape)]
        other = torch.empty(sizes, dtype=inputs[index].dtype, device=inputs[index].device)
        if _accepts(gm, [*inputs[:index], other, *inputs[index + 1 :]]):
            free.append(axis)
    return tuple(free)


def _accepts(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> bool:
    # torch logs each operator that refuses a shape as an error; here a refusal is an answer.
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        with torch.no_grad():
            _Propagate(gm, write=False).run(*inputs)
    except (InputError, AssertionError):
        return False
    finally:
        logger.disabled = disabled
    return True


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
            result = super().run_node(n)
        except Exception as error:
            shapes = [str(tuple(p.meta["val"].shape)) for p in self.module.graph.nodes if _is_input(p)]  # type: ignore[union-attr]
            raise InputError(
                f"the model does not accept an input of shape {', '.join(shapes) or 'unknown'}: node {n.name!r} "
                f"stops with {type(error).__name__}: {error}"
            ) from error
        if self.write:
            n.meta["val"] = tree_map_only(Tensor, _as_meta, result)
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Observers give back what they get.
        return args[0]


def _as_meta(value: Tensor) -> Tensor:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        return torch.empty(tuple(int(n) for n in value.shape), dtype=value.dtype, device="meta")


def _is_input(node: fx.Node) -> bool:
    return node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)
