"""The typed record that `annotate` writes on a node and that later passes read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torch import fx

from fxquant.config.operands import OperandSpec, Role
from fxquant.config.search import NoisyBias, ScaleSearch

_KEY = "fxquant"


class Product(Enum):
    """What a matrix product is for, found from the data flow."""

    PATCH_EMBED = "patch_embed"  # a convolution that reads the image
    CONV = "conv"  # any other convolution
    LINEAR = "linear"
    HEAD = "head"  # a linear whose result is the model's output
    QK = "qk"  # scores: its result goes to softmax
    PV = "pv"  # context: its first operand comes from softmax
    ATTENTION = "attention"  # both products in one fused node
    MATMUL = "matmul"  # any other product of two activations


@dataclass(frozen=True)
class Operand:
    """One operand of a product: its role, the name used in errors and buffers, and its spec (None: stays float)."""

    role: Role
    name: str
    spec: OperandSpec | None


@dataclass(frozen=True)
class Record:
    """
    What fxquant knows about one matrix product.

    `label` is unique in the graph: the module path, with the product's purpose where one module holds several.
    `reason` says why the product stays float, None where it is quantised. `requested` tells whether the config asked
    for it to be quantised. `search` and `noise` say what calibration looks for, `tokens` on how many of all tokens of the
    calibration images it did.
    """

    product: Product
    module: str
    label: str
    operands: tuple[Operand, ...]
    requested: bool = True
    reason: str | None = None
    search: ScaleSearch | None = None
    noise: NoisyBias | None = None
    tokens: tuple[int, int] | None = None

    def left_float(self, reason: str) -> Record:
        """Return this record with every operand float, because of `reason`."""
        operands = tuple(replace(o, spec=None) for o in self.operands)
        return replace(self, operands=operands, reason=reason, search=None, noise=None)


def record_of(node: fx.Node) -> Record | None:
    """Return the record of a node, or None where it is no matrix product."""
    record = node.meta.get(_KEY)
    return record if isinstance(record, Record) else None


def set_record(node: fx.Node, record: Record) -> None:
    """Write the record of a node."""
    node.meta[_KEY] = record


def clear_record(node: fx.Node) -> None:
    """Say of a new node that it is no product, whatever it replaces."""
    node.meta[_KEY] = None


def module_path(node: fx.Node) -> str:
    """Return the path of the module whose forward made `node`, such as ``blocks.0.attn.qkv`` ('' for the root)."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return str(path)
