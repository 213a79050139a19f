"""Numbers that a graph computes from sizes which nothing declares: how large they may become, whatever the sizes."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from fxquant.errors import CheckpointError

BITS = 2**12  # within which Python's arithmetic takes no time
_SIZE = 63
_SIZES = ("size", "dim", "numel", "nelement", "ndimension", "element_size", "stride", "storage_offset")
_FACTS = ("shape", "ndim", "nbytes", "itemsize")
_NUMBERS = (len, int, round, abs, max, min, sum)
_ARITHMETIC = ("_operator", "builtins", "math")


def check_unknown_numbers(graph: fx.Graph) -> None:
    """Raise `CheckpointError` naming a node whose number could have more than `BITS` bits, or as many as a size says."""
    bits: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "call_method" and node.target in _SIZES:
            bits[node] = _SIZE
        elif node.op == "call_function" and _is_number(node, bits):
            bits[node] = _bits_of(node, bits)
            if bits[node] > BITS:
                raise CheckpointError(f"node {node.name!r}: it may compute a number of more than {BITS} bits")


def _is_number(node: fx.Node, bits: dict[fx.Node, int]) -> bool:
    if node.target is getattr:
        return len(node.args) == 2 and node.args[1] in _FACTS
    if node.target in _NUMBERS and not all(each in bits for each in node.all_input_nodes):
        return node.target in (len, int)
    computes = getattr(node.target, "__module__", None) in _ARITHMETIC
    return computes and all(each in bits for each in node.all_input_nodes)


def _bits_of(node: fx.Node, bits: dict[fx.Node, int]) -> int:
    """Return how many bits the result of a function of Python has, one more where it is not sure."""
    found = [_bits(a, bits) for a in node.args] or [_SIZE]
    if node.target in (operator.pow, pow, operator.lshift) and len(node.args) > 1:
        second = node.args[1]
        if isinstance(second, fx.Node):
            raise CheckpointError(f"node {node.name!r}: expected a fixed power or shift, found {second.name!r}")
        times = min(abs(second), BITS) + 1 if isinstance(second, int) else 1
        return found[0] + times if node.target is operator.lshift else found[0] * times
    if node.target is operator.mul:
        return sum(found)
    return max(found) + 1


def _bits(value: Any, bits: dict[fx.Node, int]) -> int:
    if isinstance(value, fx.Node):
        return bits.get(value, _SIZE)
    return value.bit_length() if isinstance(value, int) else 0
