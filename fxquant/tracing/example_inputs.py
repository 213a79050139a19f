"""Example inputs as the arguments that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def as_arguments(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Return `example_inputs` as the tuple of positional arguments it stands for."""
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def tensor_arguments(example_inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """Return those of the example's arguments that are inputs of a graph traced with it: the ones with a tensor in them."""
    return tuple(value for value in as_arguments(example_inputs) if holds_tensor(value))


def holds_tensor(value: Any) -> bool:
    """Say whether `value` is a tensor, or a container with one in it."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
