"""
What is known of a node and of a graph beyond the code: the one place that spells a key of ``node.meta`` or ``gm.meta``.

A node has a value (its shape and dtype, as a tensor on the meta device), an origin (source line and module), and, where it is
a matrix product, the typed record that `annotate` writes and that later passes read. A graph module has a dtype, and a
stage, which `fxquant.graph.stages` reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.config.folds import NormFold
from fxquant.config.operands import Role
from fxquant.config.search import NoisyBias, ScaleSearch
from fxquant.config.weight_fit import WeightFit
from fxquant.graph.card import ModelCard
from fxquant.observers.operand_spec import OperandSpec

_RECORD, _VALUE, _STACK, _MODULES, _MACS = "fxquant", "val", "stack_trace", "nn_module_stack", "hidden_macs"
_DTYPE, _TRAINABLE, _STAGE, _CAPTURE, _CARD = "dtype", "trainable", "stage", "capture", "card"


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
    """
    One operand of a product: its role, the name used in errors and buffers, and its spec (None: stays float).

    table_error: how far an 8-bit table of powers moves the output of the product, and how far all quantisation does, as
    `fxquant.calibration.table_error` says; None where there is no such table, or nothing was searched.
    token_ratio: how many times the median token's range the widest token has, where that decided about the granularity.
    """

    role: Role
    name: str
    spec: OperandSpec | None
    table_error: tuple[float, float] | None = None
    token_ratio: float | None = None


@dataclass(frozen=True)
class Record:
    """
    What fxquant knows about one matrix product.

    `label` is unique in the graph: the module path, with the product's purpose where one module holds several.
    `reason` says why the product stays float, None where it is quantised. `requested` tells whether the config asked
    for it to be quantised. `search`, `noise` and `fit` say what calibration looks for, `tokens` on how many of all tokens of
    the calibration images it searched. `fold` says what is still to be done to the norm that a linear layer reads.
    """

    product: Product
    module: str
    label: str
    operands: tuple[Operand, ...]
    requested: bool = True
    reason: str | None = None
    search: ScaleSearch | None = None
    noise: NoisyBias | None = None
    fit: WeightFit | None = None
    fold: NormFold | None = None
    tokens: tuple[int, int] | None = None

    def left_float(self, reason: str) -> Record:
        """Return this record with every operand float, because of `reason`."""
        operands = tuple(replace(o, spec=None, table_error=None) for o in self.operands)
        return replace(self, operands=operands, reason=reason, search=None, noise=None, fit=None, fold=None)


@dataclass(frozen=True)
class Capture:
    """
    How a graph was captured from its model.

    method: "symbolic" or "export". verified: the graph was compared with the model, on an example or on images of the size that
    the model declares. missing: the share of the multiply-accumulates which the model was seen to compute that no product of
    the graph accounts for, as a fraction of all; None where they were not counted.
    """

    method: str
    verified: bool
    missing: float | None = None


def record_of(node: fx.Node) -> Record | None:
    """Return the record of a node, or None where it is no matrix product."""
    record = node.meta.get(_RECORD)
    return record if isinstance(record, Record) else None


def set_record(node: fx.Node, record: Record) -> None:
    """Write the record of a node."""
    node.meta[_RECORD] = record


def clear_record(node: fx.Node) -> None:
    """Write on a new node that it is no product, so that it inherits no record from the node that it replaces."""
    node.meta[_RECORD] = None


def drop_record(node: fx.Node) -> None:
    """Remove the record of a node, such as a copied one; it may still inherit that of the node that it replaces."""
    node.meta.pop(_RECORD, None)


def value_of(node: object) -> Tensor | None:
    """Return the value of a node, a tensor on the meta device; None where it is unknown, no tensor, or `node` is no node."""
    value = any_value_of(node)
    return value if isinstance(value, Tensor) else None


def known_value(node: object) -> Tensor:
    """Return `value_of` a node whose shape has to be known; raise `RuntimeError` naming the node where it is not."""
    value = value_of(node)
    if value is None:
        raise RuntimeError(f"the shape of node {node} is unknown: propagate_shapes comes first")
    return value


def any_value_of(node: object) -> Any:
    """Return the value of a node: one or several tensors on the meta device, a number or None; None too where it is unknown."""
    return node.meta.get(_VALUE) if isinstance(node, fx.Node) else None


def has_value(node: fx.Node) -> bool:
    """Say whether the value of a node is known; it may be None, as that of an assertion is."""
    return _VALUE in node.meta


def set_value(node: fx.Node, value: Any) -> None:
    """Write the value of a node, which may be None."""
    node.meta[_VALUE] = value


def drop_value(node: fx.Node) -> None:
    """Remove the value of a node; it may still inherit that of the node that it replaces."""
    node.meta.pop(_VALUE, None)


def copy_value(new: fx.Node, old: fx.Node) -> None:
    """Write the value of `old` on `new`, if it is known."""
    if has_value(old):
        set_value(new, any_value_of(old))


def hidden_macs(node: fx.Node) -> int:
    """Return the multiply-accumulates that a node, no product of its own kind, computes for the batch that its shape is of."""
    return int(node.meta.get(_MACS, 0))


def set_hidden_macs(node: fx.Node, macs: int) -> None:
    """Write what `hidden_macs` returns."""
    node.meta[_MACS] = macs


def provenance(new: fx.Node, old: fx.Node) -> None:
    """Give `new` the source line and the module of `old`, where it has none of its own."""
    _hand_on(new, old, (_STACK, _MODULES))


def take_provenance(node: fx.Node, other: fx.Node) -> None:
    """Give `node` the source line and the module of `other`, as far as they are known, in place of its own."""
    node.meta |= {key: other.meta[key] for key in (_STACK, _MODULES) if other.meta.get(key)}


def keep_provenance(node: fx.Node) -> None:
    """Forget all that `node` knows but its source line and its module, as far as they are known."""
    node.meta = {key: node.meta[key] for key in (_STACK, _MODULES) if node.meta.get(key)}


def copy_knowledge(new: fx.Node, old: fx.Node) -> None:
    """Give `new` all that `old` knows but its record, in place of its own."""
    new.meta |= {key: known for key, known in old.meta.items() if key != _RECORD}


def inherit_meta(new: fx.Node, old: fx.Node) -> None:
    """Give `new` what `old` knew about its value, origin and record, where it has nothing of its own."""
    _hand_on(new, old, (_VALUE, _STACK, _MODULES, _RECORD))


def _hand_on(new: fx.Node, old: fx.Node, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key in old.meta:
            new.meta.setdefault(key, old.meta[key])


def module_stack(node: fx.Node) -> dict[str, tuple[str, Any]]:
    """Return the modules whose forward made `node`, outermost first: key -> (path, type)."""
    return dict(node.meta.get(_MODULES) or {})


def set_module_stack(node: fx.Node, stack: dict[str, tuple[str, Any]]) -> None:
    """Write the modules whose forward made `node`."""
    node.meta[_MODULES] = stack


def module_path(node: fx.Node) -> str:
    """Return the path of the module whose forward made `node`, such as ``blocks.0.attn.qkv`` ('' for the root)."""
    stack = module_stack(node)
    return str(list(stack.values())[-1][0]) if stack else ""


def model_dtype(gm: fx.GraphModule) -> torch.dtype:
    """Return the floating dtype of the model that a graph was traced from, float32 where none is written."""
    return written_dtype(gm) or torch.float32


def written_dtype(gm: fx.GraphModule) -> torch.dtype | None:
    """Return the dtype that is written on a graph, None where none is."""
    dtype: torch.dtype | None = _knowledge(gm).get(_DTYPE)
    return dtype


def set_model_dtype(gm: fx.GraphModule, dtype: torch.dtype) -> None:
    """Write what `model_dtype` returns."""
    gm.meta[_DTYPE] = dtype


def any_stage_of(gm: fx.GraphModule) -> object:
    """Return what is written as the stage of a graph, None where nothing is; `fxquant.graph.stages.stage_of` has its type."""
    return _knowledge(gm).get(_STAGE)


def _knowledge(gm: fx.GraphModule) -> dict[str, Any]:
    # Graph modules of other libraries may leave the constructor out, which makes the dictionary.
    return vars(gm).get("meta") or {}


def write_stage(gm: fx.GraphModule, stage: object) -> None:
    """Write what `any_stage_of` returns."""
    gm.meta[_STAGE] = stage


def capture_of(gm: fx.GraphModule) -> Capture | None:
    """Return how a graph was captured, None where that is unknown."""
    capture = gm.meta.get(_CAPTURE)
    return capture if isinstance(capture, Capture) else None


def set_capture(gm: fx.GraphModule, capture: Capture) -> None:
    """Write what `capture_of` returns."""
    gm.meta[_CAPTURE] = capture


def card_of(gm: fx.GraphModule) -> ModelCard:
    """Return what a graph says of itself, an empty card where it says nothing."""
    card = _knowledge(gm).get(_CARD)
    return card if isinstance(card, ModelCard) else ModelCard()


def set_card(gm: fx.GraphModule, card: ModelCard) -> None:
    """Write what `card_of` returns."""
    gm.meta[_CARD] = card


def refuse_training(gm: fx.GraphModule) -> None:
    """Note that a graph cannot be trained: its constants were folded."""
    gm.meta[_TRAINABLE] = False


def is_trainable(gm: fx.GraphModule) -> bool:
    """Say whether nothing is known that keeps a graph from being trained."""
    return gm.meta.get(_TRAINABLE) is not False
