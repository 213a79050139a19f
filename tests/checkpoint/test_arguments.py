"""Arguments of nodes and typed values through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from fxquant import OMSE, CheckpointError, PerChannel, RowGroups, TensorSpec
from fxquant.checkpoint import arguments, typed
from fxquant.config.operands import Role
from fxquant.graph.meta import Operand, Product, Record

GRAPH = fx.Graph()
NODES = {node.name: node for node in (GRAPH.placeholder("x"), GRAPH.placeholder("y"))}

LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(),
    st.complex_numbers(allow_nan=False, allow_infinity=False),
    st.text(),
    st.just(...),
    st.sampled_from(list(NODES.values())),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.bool]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 1), torch.strided]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.lists(st.integers(0, 9), max_size=3).map(torch.Size),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.tuples(inner, inner, inner).map(lambda parts: slice(*parts)),
        st.dictionaries(st.sampled_from(["logits", "tokens", "_x1"]), inner, max_size=2),
    ),
    max_leaves=8,
)


def through_json(value: Any) -> Any:
    return arguments.decode(json.loads(json.dumps(arguments.encode(value), allow_nan=False)), NODES)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_every_kind_comes_back(value: Any) -> None:
    found = through_json(value)
    assert repr(found) == repr(value)  # tells -0.0 from 0.0, True from 1 and (1,) from [1]
    assert type(found) is type(value)


def test_lists_of_fx_become_plain() -> None:
    node = GRAPH.call_function(torch.cat, ([NODES["x"], NODES["y"]], {"a": 1}))
    assert arguments.encode(node.args[0]) == {"list": [{"node": "x"}, {"node": "y"}]}
    assert arguments.encode(node.args[1]) == {"dict": [["a", 1]]}


@pytest.mark.parametrize(
    "value",
    [
        *(
            complex(1, float("inf")),
            b"bytes",
            {1, 2},
            range(3),
            object(),
            torch.zeros(1),
            torch.nn.Linear,
            len,
            2**70,
            torch.qint8,
        ),
        *({"a\n": 1}, {"__class__": 1}, {1: 2}, torch.sparse_coo, torch.max(torch.zeros(1, 1), 0), Role.WEIGHT),
    ],
)
def test_other_kinds_are_refused(value: Any) -> None:
    with pytest.raises(CheckpointError):
        arguments.encode(value)


def test_deep_nesting_is_refused_both_ways() -> None:
    value: Any = 1
    data: Any = 1
    for _ in range(200):
        value, data = (value,), {"tuple": [data]}
    with pytest.raises(CheckpointError, match="nested"):
        arguments.encode(value)
    with pytest.raises(CheckpointError, match="nested"):
        arguments.decode(data, NODES)


RECORD = Record(
    Product.LINEAR,
    "blocks.0.attn.qkv",
    "blocks.0.attn.qkv",
    (
        Operand(Role.NORM, "blocks.0.attn.qkv.input", None),
        Operand(
            Role.WEIGHT, "w", TensorSpec(3, signed=True, symmetric=True, granularity=RowGroups(3), observer=OMSE(True))
        ),
        Operand(Role.ACTIVATION, "x", TensorSpec(granularity=PerChannel(-1))),
    ),
    reason="left float by the config (module_name_regex '.*\\\\.qkv')",
)


def test_records_come_back() -> None:
    assert typed.decode(json.loads(json.dumps(typed.encode(RECORD))), Record) == RECORD


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("product",), "nonsense"),
        (("product",), ["linear"]),
        (("requested",), 1),
        (("label",), 3),
        (("label",), 'x"""\nimport os'),
        (("reason",), "two\nlines"),
        (("operands",), {}),
        (("operands", 0), None),
        (("operands", 1, "spec", "bits"), 9),
        (("operands", 1, "spec", "bits"), True),
        (("operands", 1, "spec", "bits"), 8.0),
        (("operands", 1, "spec", "signed"), "yes"),
        (("operands", 1, "spec", "granularity"), {"type": "Record"}),
        (("operands", 1, "spec", "granularity", "groups"), 0),
        (("operands", 1, "spec", "observer"), {"type": "PerTensor"}),
        (("operands", 1, "spec", "observer"), {"type": "os.system"}),
        (("operands", 1, "spec", "observer", "bins"), 2**60),
        (("operands", 1, "spec", "observer", "extra"), 1),
        (("type",), "Operand"),
    ],
)
def test_records_of_another_form_are_refused(path: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(typed.encode(RECORD)))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises((CheckpointError, ValueError)):
        typed.decode(data, Record)
