"""
Write new tensors in the place of those that a norm or a linear layer reads.

The old ones stay as they are: the model that a graph was traced from may own them, and other nodes may read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.attributes import bias_of, read_buffer, set_bias, tensor_of, weight_of
from fxquant.graph.calls import arguments_of, call
from fxquant.graph.meta import inherit_meta, known_value, module_path

Change = Callable[[Tensor], Tensor]


def new_tensor(old: fx.Node, value: Tensor, dtype: torch.dtype) -> fx.Node:
    """Return a new node, right before `old`, that reads `value` under a name like that of `old`, which reads a tensor."""
    name = re.sub(r"_folded(_\d+)?$", "", str(old.target))
    with old.graph.inserting_before(old):
        return read_buffer(old.graph, f"{name}_folded", value.to(dtype).contiguous())


def exact_weight(product: fx.Node) -> Tensor:
    """Return the weight of a linear layer or convolution in float64."""
    return weight_of(product).detach().double()


def exact_bias(product: fx.Node) -> Tensor:
    """Return the bias ``(O,)`` of a linear layer or convolution in float64, zeros where there is none."""
    bias, weight = bias_of(product), weight_of(product)
    if bias is None:
        return torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    return tensor_of(bias).detach().double()


def set_weight(product: fx.Node, weight: Tensor) -> None:
    """Let a linear layer or convolution without observers read `weight` in place of its own."""
    old = product.args[1]
    product.update_arg(1, new_tensor(old, weight, weight_of(product).dtype))  # type: ignore[arg-type]


def set_exact_bias(product: fx.Node, bias: Tensor) -> None:
    """Let a linear layer or convolution add `bias`, ``(O,)``, in place of its own; none stays none where it is zero."""
    old, weight = bias_of(product), weight_of(product)
    if old is not None:
        set_bias(product, new_tensor(old, bias, tensor_of(old).dtype))
    elif bool(bias.any()):
        with product.graph.inserting_before(product):
            name = f"{module_path(product)}.bias_folded".lstrip(".")
            set_bias(product, read_buffer(product.graph, name, bias.to(weight.dtype)))


def change_columns(product: fx.Node, change: Change) -> None:
    """Let a linear layer read its weight ``(O, K)`` as `change` makes it."""
    set_weight(product, change(exact_weight(product)))


def change_rows(product: fx.Node, change: Change) -> None:
    """Change the channels of what a linear layer or convolution gives; change: of row vectors ``(.., O)``, linear."""
    weight = exact_weight(product)
    set_weight(product, change(weight.flatten(1).T).T.reshape(weight.shape))
    set_exact_bias(product, change(exact_bias(product)))


def change_written(writer: fx.Node, readers: Container[fx.Node], change: Change) -> None:
    """
    Change the channels of what `writer` gives: a linear layer, a convolution, or a node that reads a tensor ``(.., C)``.

    change: as for `change_rows`. readers: who sees the change of a tensor; others read it as it was.
    """
    if writer.op != "get_attr":
        change_rows(writer, change)
        return
    tensor = tensor_of(writer)
    new = new_tensor(writer, change(tensor.detach().double()), tensor.dtype)
    for user in [u for u in writer.users if u in readers]:
        user.replace_input_with(writer, new)


def norm_tensors(norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a norm in float64, ``(C,)`` each, ones and zeros where it has none."""
    given = arguments_of(norm)
    weight, bias = given["weight"], given.get("bias")
    plain = torch.ones(given["normalized_shape"], dtype=torch.float64)
    scale = plain if weight is None else tensor_of(weight).detach().double()
    return scale, torch.zeros_like(scale) if bias is None else tensor_of(bias).detach().double()


def replace_norm(norm: fx.Node, target: Any, **changed: Any) -> fx.Node:
    """Put a call of `target` with some arguments of `norm` changed into its place, and return it."""
    given = arguments_of(norm) | changed
    if target is F.rms_norm:
        given.pop("bias", None)
    with norm.graph.inserting_before(norm):
        new = call(norm.graph, target, given)
    inherit_meta(new, norm)
    norm.replace_all_uses_with(new)
    norm.graph.erase_node(norm)
    return new


def set_norm_tensors(norm: fx.Node, scale: Tensor, shift: Tensor) -> None:
    """Give a norm another scale and shift, ``(C,)`` each; an RMS norm, which has no shift, is given one of zeros."""
    path, dtype = module_path(norm), known_value(norm).dtype
    with norm.graph.inserting_before(norm):
        weight, bias = (
            read_buffer(norm.graph, f"{path}.{name}_folded".lstrip("."), value.to(dtype))
            for name, value in (("weight", scale), ("bias", shift))
        )
    replace_norm(norm, norm.target, weight=weight, bias=bias)
