"""Questions about where values come from and go to; roles are answered here, never from attribute names."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.meta import value_of
from fxquant.ops import make_output

PRODUCTS = (F.linear, F.conv2d, torch.matmul, F.scaled_dot_product_attention)

# Operators that move, copy or cast values without computing new ones.
_MOVING_METHODS = {
    *(
        "reshape",
        "view",
        "permute",
        "transpose",
        "contiguous",
        "flatten",
        "unflatten",
        "expand",
        "expand_as",
        "unsqueeze",
    ),
    *("squeeze", "to", "float", "type_as", "chunk", "split", "unbind", "repeat", "clone", "movedim", "swapaxes", "t"),
}
_MOVING_FUNCTIONS = {
    *(operator.getitem, torch.flatten, torch.permute, torch.transpose, torch.reshape, torch.roll, torch.unbind),
    *(torch.chunk, torch.split, torch.unsqueeze, torch.squeeze, torch.clone, F.pad),
    *(torch.view_as_complex, torch.view_as_real),
    *(torch.ops.aten.view_as_complex.default, torch.ops.aten.view_as_real.default),
}
_MOVING_ATTRIBUTES = ("T", "mT", "H", "mH")
_ELEMENTWISE = {
    operator.add,
    operator.mul,
    operator.sub,
    operator.truediv,
    operator.neg,
    torch.clamp,
    torch.where,
    torch.masked_fill,
    torch.mul,
    torch.add,
    torch.neg,
}
# What puts values side by side, such as the halves of queries that are turned by their position.
_JOINING = (torch.cat, torch.concat, torch.stack)
_ELEMENTWISE_NAMES = {"maybe_add_mask"}  # of timm, where attention is not fused: torch.fx is told not to look into it
_ELEMENTWISE_METHODS = {"clamp", "masked_fill", "mean", "add", "mul", "neg"}
# What takes no more than sizes and a dtype from its argument.
_FILLED = (torch.zeros_like, torch.ones_like, torch.full_like, "new_zeros", "new_ones", "new_full")
_NORMS = (F.layer_norm, F.rms_norm, F.normalize)


def moves_values(node: fx.Node) -> bool:
    """Say whether `node` only moves, copies or casts its first argument."""
    if node.op == "call_method":
        return node.target in _MOVING_METHODS
    if node.target is getattr:
        return node.args[1] in _MOVING_ATTRIBUTES
    return node.op == "call_function" and node.target in _MOVING_FUNCTIONS


def is_elementwise(node: fx.Node) -> bool:
    """Say whether `node` computes element by element (or averages), without a matrix product or nonlinearity."""
    if node.op == "call_method":
        return node.target in _ELEMENTWISE_METHODS
    named = getattr(node.target, "__name__", None) in _ELEMENTWISE_NAMES
    return node.op == "call_function" and (named or node.target in _ELEMENTWISE)


def origin(value: object) -> fx.Node | None:
    """Return the node that computed `value`, looking through everything that only moves it."""
    while isinstance(value, fx.Node) and moves_values(value):
        value = value.args[0]
    return value if isinstance(value, fx.Node) else None


def observed(value: object) -> fx.Node | None:
    """Return the call of the observer that `value` comes from, moved or multiplied by a number; None where there is none."""
    while isinstance(value, fx.Node) and (moves_values(value) or _scales(value)):
        value = value.args[0]
    return value if isinstance(value, fx.Node) and value.op == "call_module" else None


def behind_sums(value: object) -> object:
    """Return what `value` was before anything was added to it, looking through moves as well."""
    while isinstance(value, fx.Node) and (moves_values(value) or value.target in (operator.add, torch.add)):
        value = value.args[0]
    return value


def _scales(node: fx.Node) -> bool:
    return node.target in (operator.mul, torch.mul) and len(node.args) == 2 and isinstance(node.args[1], int | float)


def is_parameter(value: object) -> bool:
    """Say whether `value` comes from a parameter or buffer, moved or not."""
    source = origin(value)
    return source is not None and source.op == "get_attr"


def flows_to(node: fx.Node, target: object) -> bool:
    """Say whether the result of `node` reaches a call of `target` through moves and elementwise operators only."""
    return any(user.target is target for user in downstream(node))


def mixes(value: object, target: object) -> bool:
    """Say whether `value` is made of results of `target` and constants alone, moved, scaled, added or subtracted."""
    stack, found = [value], False
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or is_parameter(node):
            continue
        if node.target is target:
            found = True
        elif moves_values(node):
            stack.append(node.args[0])
        elif is_elementwise(node):
            stack.extend(node.all_input_nodes)
        else:
            return False
    return found


def reaches_output(node: fx.Node) -> bool:
    """
    Say whether the result of `node` reaches the graph's output, and no other product, through any operators but layer norms.

    A model without a head ends in a layer norm, and the linear layer before it is no head.
    """
    seen: set[fx.Node] = set()
    stack = list(node.users)
    found = False
    while stack:
        user = stack.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in (*PRODUCTS, F.layer_norm, F.rms_norm):
            return False
        found |= user.op == "output"
        stack.extend(user.users)
    return found


def projections(node: fx.Node) -> int:
    """Return how many of query, key and value the result of a linear layer becomes, through moves, scaling and norms."""
    found = set[str]()
    for user in downstream(node, through=_NORMS):
        if user.target is F.scaled_dot_product_attention:
            found.update(name for name, a in zip("qkv", user.args, strict=False) if _reaches(node, a))
        elif user.target is torch.matmul:
            scores = flows_to(user, F.softmax)
            found.update(
                name for name, a in zip("qk" if scores else "pv", user.args, strict=False) if _reaches(node, a)
            )
    return len(found - {"p"})


def heads(node: fx.Node) -> int | None:
    """Return in how many heads attention reads the result of a linear layer, None where shapes are not known."""
    for user in downstream(node, through=_NORMS):
        if user.target in (F.scaled_dot_product_attention, torch.matmul):
            shapes = [value_of(a) for a in user.args[:2] if isinstance(a, fx.Node)]
            return int(shapes[0].shape[-3]) if shapes and shapes[0] is not None and shapes[0].dim() > 2 else None
    return None


def _reaches(node: fx.Node, value: object) -> bool:
    """Say whether `value` is the result of `node`, moved, scaled or normalised."""
    stack, seen = [value], set[object]()
    while stack:
        source = stack.pop()
        if source is node:
            return True
        if not isinstance(source, fx.Node) or source in seen:
            continue
        seen.add(source)
        if moves_values(source) or is_elementwise(source) or source.target in (*_JOINING, *_NORMS):
            stack.extend(source.all_input_nodes)
    return False


def on_trunk(node: fx.Node) -> bool:
    """
    Say whether every path from the model's inputs to its output passes through `node`.

    It does through a patch embedding, and not through a layer of a block, which a skip connection goes around.
    """
    stack, seen = [n for n in node.graph.nodes if n.op == "placeholder"], set[fx.Node]()
    while stack:
        current = stack.pop()
        if current.op == "output":
            return False
        if current not in seen and current is not node and not is_size(current):
            seen.add(current)
            stack.extend(current.users)
    return True


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Return `node` and everything it is computed from, other than by sizes and dtypes."""
    stack, seen = [node], set[fx.Node]()
    while stack:
        current = stack.pop()
        if current in seen or is_size(current):
            continue
        seen.add(current)
        if moves_values(current):
            stack.extend(a for a in current.args[:1] if isinstance(a, fx.Node))
        elif current.target not in _FILLED:
            stack.extend(current.all_input_nodes)
    return seen


def returned(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Return each value that `graph` returns, behind the node that reads it: the output, or the `make_output` it lies in."""
    found, readers = list[tuple[fx.Node, fx.Node]](), [n for n in graph.nodes if n.op == "output"]
    while readers:
        reader = readers.pop()
        for value in reader.all_input_nodes:
            if value.target is make_output:
                readers.append(value)
            else:
                found.append((reader, value))
    return found


def only_masks(node: fx.Node) -> bool:
    """Say whether the result of `node` only masks scores: no observer reads it, or what is computed of it before a softmax."""
    stack, seen, masks = [node], set[fx.Node](), False
    while stack:
        current = stack.pop()
        for user in current.users:
            if user.op == "call_module":
                return False
            if user.target is F.softmax or (
                user.target is F.scaled_dot_product_attention and current not in user.args[:3]
            ):
                masks = True
            elif user not in seen:
                seen.add(user)
                stack.append(user)
    return masks


def after(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return what is computed from the values of `nodes`, other than by their sizes."""
    stack, found = list(nodes), set[fx.Node]()
    while stack:
        for user in stack.pop().users:
            if user not in found and not is_size(user):
                found.add(user)
                stack.append(user)
    return found


def between(node: fx.Node, source: fx.Node) -> set[fx.Node]:
    """Return the operators that compute `node`, itself left out, from `source` and from constants."""
    found, stack = set[fx.Node](), [node]
    while stack:
        current = stack.pop()
        read = current.all_input_nodes[:1] if moves_values(current) else current.all_input_nodes
        new = [n for n in read if n is not source and n not in found and n.op != "get_attr" and not is_size(n)]
        found.update(new)
        stack += new
    return found


def weights_behind(node: fx.Node) -> frozenset[str]:
    """Return the names of the weights of the linear layers and convolutions before `node`, with none of these in between."""
    stack, seen, found = list(node.all_input_nodes), set[fx.Node](), set[str]()
    while stack:
        current = stack.pop()
        if current in seen or is_size(current):
            continue
        seen.add(current)
        if current.target in (F.linear, F.conv2d):
            found.update(
                str(n.target) for a in current.all_input_nodes[1:2] for n in ancestors(a) if n.op == "get_attr"
            )
        else:
            stack.extend(current.all_input_nodes)
    return frozenset(found)


def is_size(node: fx.Node) -> bool:
    """Say whether `node` reads no more than the shape of its argument."""
    return node.target in ("size", "dim") or (node.target is getattr and node.args[1] in ("shape", "ndim"))


def reads_input(value: object) -> bool:
    """Say whether `value` is computed from a placeholder without any matrix product on the way."""
    stack, seen = [value], set[object]()
    while stack:
        node = stack.pop()
        if not isinstance(node, fx.Node) or node in seen:
            continue
        seen.add(node)
        if node.op == "placeholder":
            return True
        if node.target not in PRODUCTS:
            stack.extend(node.all_input_nodes)
    return False


def downstream(node: fx.Node, through: tuple[object, ...] = ()) -> Iterator[fx.Node]:
    """Yield what reads the result of `node`, through moves, joins, elementwise operators and those of `through`."""
    stack, seen = list(node.users), set[fx.Node]()
    while stack:
        user = stack.pop()
        if user in seen:
            continue
        seen.add(user)
        yield user
        if moves_values(user) or is_elementwise(user) or user.target in (*_JOINING, *through):
            stack.extend(user.users)
