"""Files whose graph is not legal, whose header has another form, or is made at random."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fxquant
from fxquant import CheckpointError
from fxquant.checkpoint import container
from fxquant.dialect import vocabulary
from tests.support import checkpoints
from tests.support.checkpoints import at_stage, node_of
from tests.support.hostile import INJECTIONS, Change, refused


def drop_output(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"].pop()


def two_outputs(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"].append(contents["nodes"][-1] | {"name": "output_1"})


def no_nodes(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"] = []


def same_name(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][1]["name"] = contents["nodes"][0]["name"]


def a_builtin_for_a_name(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][0]["name"] = contents["nodes"][0]["target"] = "print"


def same_placeholder(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"].insert(1, contents["nodes"][0] | {"name": "y"})


def self_as_placeholder(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][0]["target"] = "self"


def deep_argument(contents: Any, tensors: dict[str, Tensor]) -> None:
    value: Any = 1
    for _ in range(100):
        value = {"tuple": [value]}
    contents["nodes"][1]["args"][0] = value


def unknown_argument(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][1]["args"][0] = {"pickle": "gASV"}


def two_kinds(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][1]["args"][0] = {"node": "x", "tuple": []}


def huge_integer(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][1]["args"][0] = 10**200


def odd_device(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][1]["args"][0] = {"device": "cpu'); import fxquant_canary"}


def odd_stage(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["stage"] = "hacked"


def another_stage(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["stage"] = "float"


def odd_dtype(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["dtype"] = "float33"


def odd_stack(contents: Any, tensors: dict[str, Tensor]) -> None:
    next(n for n in contents["nodes"] if "stack" in n)["stack"] = len(contents["stacks"])


def negative_stack(contents: Any, tensors: dict[str, Tensor]) -> None:
    next(n for n in contents["nodes"] if "stack" in n)["stack"] = -1


def negative_shape(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][0]["val"] = {"tensor": [[-1], "float32"]}


def too_many_arguments(contents: Any, tensors: dict[str, Tensor]) -> None:
    node_of(contents, "fxquant.ops.quantize")["args"] = [{"node": "x"}] * 3
    node_of(contents, "fxquant.ops.int8_linear")["args"] = []


@pytest.mark.parametrize(
    "change",
    [
        *(drop_output, two_outputs, no_nodes, same_name, a_builtin_for_a_name, same_placeholder, self_as_placeholder),
        *(
            deep_argument,
            unknown_argument,
            two_kinds,
            huge_integer,
            odd_device,
            odd_stage,
            another_stage,
            odd_dtype,
            odd_stack,
        ),
        *(negative_stack, negative_shape, too_many_arguments),
    ],
)
def test_graphs_that_are_not_legal(change: Change, path: Path) -> None:
    refused(path, change)


@pytest.mark.parametrize("key", ["nodes", "slots", "tensors", "modules", "stacks", "stage", "class", "training"])
@pytest.mark.parametrize("value", [None, 3, "x", {"a": 1}, [[]], [None]])
def test_parts_of_another_form(key: str, value: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents[key] = value

    if (key, value) == ("class", "x"):
        return
    refused(path, change)


@pytest.mark.parametrize("key", ["nodes", "slots", "tensors", "modules", "stacks", "stage", "class", "training"])
def test_missing_parts(key: str, path: Path) -> None:
    refused(path, lambda contents, tensors: contents.pop(key) and None)


# Names near the border of the dialect, on both sides of it.
FUNCTIONS = [
    *("torch.sort", "torch.load", "torch.empty", "torch.nn.functional.embedding", "torch.nn.functional.normalize"),
    *("torch.ops", "aten.set_.source_Tensor", "aten.gelu", "aten.as_strided.default", "aten.max.dim", "aten.__class__"),
    *("operator.and_", "operator.call", "builtins.max", "builtins.getattr", "math.comb", "torch.nn.functional.relu"),
    *(
        "call_function",
        "call_method",
        "values",
        "resize",
        "scatter",
        "data_ptr",
        "index_put",
        "numpy",
        "complex",
        "named",
    ),
]
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.floats(allow_nan=False, allow_infinity=False))
    | st.sampled_from([*INJECTIONS, "x", "head", "forward", "shape", "observer", "parameter", "float32", "lowered"])
    | st.sampled_from(FUNCTIONS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["node", "complex", "named", "tuple", "list", "dict", "slice", "dtype", "type", "name", "x"]
            ),
            inner,
        )
    ),
    max_leaves=5,
)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Return every container of a JSON value with every key in it."""
    found: list[tuple[Any, Any]] = []
    stack = [data]
    while stack:
        branch = stack.pop()
        keys = branch.keys() if isinstance(branch, dict) else range(len(branch))
        for key in keys:
            found.append((branch, key))
            if isinstance(branch[key], dict | list):
                stack.append(branch[key])
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), stage=st.sampled_from(["int8", "calibrated"]))
def test_any_header_is_refused_or_is_a_graph_of_the_dialect(data: st.DataObject, stage: str, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.safetensors"
    if not hasattr(places, stage):
        fxquant.save(at_stage("conv", stage), path)
        setattr(places, stage, checkpoints.read_parts(path))
    contents, tensors = getattr(places, stage)
    contents = copy.deepcopy(contents)
    for _ in range(data.draw(st.integers(1, 3))):
        branch, key = data.draw(st.sampled_from(places(contents)))
        branch[key] = copy.deepcopy(data.draw(st.sampled_from([v[k] for v, k in places(contents)]) | JSON))
    container.write(str(path), contents, tensors)
    loaded, problem = None, ""
    try:
        loaded = fxquant.load(path)
    except CheckpointError as error:
        problem = str(error)
    assert "SyntaxError" not in problem
    for node in loaded.graph.nodes if loaded else ():
        if node.op in ("call_function", "call_method"):
            assert vocabulary.refusal(node.op, node.target, node.args, node.kwargs) is None
