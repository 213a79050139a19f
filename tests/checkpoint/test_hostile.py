"""
Files made to do harm, with checksums that are right.

Each either raises `CheckpointError` or loads as a graph of the dialect; whatever it names is never run.
"""

from __future__ import annotations

import builtins
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fxquant
from fxquant import CheckpointError, dialect
from fxquant.checkpoint import file
from tests.checkpoint import helpers
from tests.checkpoint.helpers import at_stage, forge, node_of

Change = Callable[[Any, dict[str, Tensor]], Any]

INJECTIONS = [
    "x\n    import fxquant_canary",
    "x; import fxquant_canary",
    "x = __import__('fxquant_canary')",
    '"); __import__("fxquant_canary"); ("',
    "'+__import__('fxquant_canary')+'",
    "__import__",
    "__class__",
    "a b",
    "a-b",
    "1x",
    "",
    "class",
    "\u2179",  # a letter to Python, which reads it as x
    "x" * 2000,
]


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything imports the canary or runs a command."""

    def caught(*args: Any, **kwargs: Any) -> None:
        pytest.fail(f"code of the file was run: {args}")

    class Canary:
        def find_spec(self, name: str, *args: Any) -> None:
            if name == "fxquant_canary":
                caught(name)

    monkeypatch.setattr(os, "system", caught)
    monkeypatch.setattr(builtins, "breakpoint", caught)
    monkeypatch.setattr(sys, "meta_path", [Canary(), *sys.meta_path])
    # Makes torch.fx put what is known about each node into the source it runs.
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    fxquant.save(at_stage("conv", "int8"), target)
    return target


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    target = tmp_path / "prepared.safetensors"
    fxquant.save(at_stage("conv", "calibrated"), target)
    return target


def refused(path: Path, change: Change, match: str = "") -> None:
    """Check that the file with `change` made to it is refused, with a reason that matches."""
    forge(path, change)
    with pytest.raises(CheckpointError, match=match or "."):
        fxquant.load(path)


def test_a_forged_file_without_changes_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FX_GRAPH_SHOW_META")
    forge(path, lambda contents, tensors: None)
    helpers.assert_same(at_stage("conv", "int8"), fxquant.load(path))


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("place", ["name", "target of placeholder", "keyword", "class", "dict key"])
def test_text_for_a_name(text: str, place: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node = node_of(contents, "fxquant.ops.int8_linear")
        if place == "name":
            node["name"] = text
        elif place == "target of placeholder":
            contents["nodes"][0]["target"] = text
        elif place == "keyword":
            node["kwargs"] = {text: 1}
        elif place == "dict key":
            node["args"][0] = {"dict": [[text, 1]]}
        else:
            contents["class"] = text

    refused(path, change, "expected an identifier")


@pytest.mark.parametrize("text", [t for t in INJECTIONS if t != "a-b" and t != "1x"])
@pytest.mark.parametrize("kind", ["get_attr", "slot", "both"])
def test_text_for_the_path_of_a_tensor(text: str, kind: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        if kind != "get_attr":
            contents["slots"][0]["name"] = f"head.{text}"
        if kind != "slot":
            node_of(contents, contents["slots"][0]["tensor"])["target"] = f"head.{text}"

    refused(path, change)


@pytest.mark.parametrize("text", [t for t in INJECTIONS if t != "a-b" and t != "1x"])
def test_text_for_the_path_of_a_module(text: str, prepared: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["modules"][0]["path"] = text
        next(n for n in contents["nodes"] if n["op"] == "call_module")["target"] = text

    refused(prepared, change)


@pytest.mark.parametrize(
    "place", ["stack path", "stack type", "record label", "record reason", "operand", "module operand"]
)
@pytest.mark.parametrize(
    "text", ['""" ; __import__("fxquant_canary") ; """', "\n__import__('fxquant_canary')\n", "\ud800"]
)
def test_text_that_could_end_a_docstring(place: str, text: str, prepared: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        record = next(node["record"] for node in contents["nodes"] if "record" in node)
        if place.startswith("stack"):
            contents["stacks"][0][0][1 if place == "stack path" else 2] = text
        elif place.startswith("record"):
            record[place.split()[1]] = text
        elif place == "operand":
            record["operands"][0]["name"] = text
        else:
            contents["modules"][0]["operand"] = text

    refused(prepared, change, "expected one line of text")


def test_strings_are_only_strings(path: Path) -> None:
    text = "');__import__('fxquant_canary')#\n\"\"\"\\"

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, "fxquant.ops.check_input")["args"][2] = text

    forge(path, change)
    loaded = fxquant.load(path)
    assert loaded.graph.find_nodes(op="call_function", target=fxquant.ops.check_input)[0].args[2] == text
    with pytest.raises(fxquant.InputError):
        loaded(torch.zeros(1, 1))


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "builtins.compile"),
        *("builtins.setattr", "operator.attrgetter", "operator.methodcaller", "operator.setitem", "operator.call"),
        *("torch.load", "torch.save", "torch.ops.load_library", "torch.hub.load", "torch.from_file", "torch.empty"),
        *("torch.nn.functional.__builtins__", "math.__loader__", "timm.create_model", "timm.layers.os", "posix.system"),
        *(
            "aten.set_.source_Tensor",
            "aten.from_file.default",
            "aten.copy_.default",
            "aten.add_.Tensor",
            "aten.resize_",
        ),
        *(
            "fxquant.ops.quantize.__globals__",
            "fxquant.api.trace",
            "subprocess.run",
            "",
            "torch",
            "torch.",
            ".",
            "aten.",
        ),
        *(None, 3, ["torch.add"], {"node": "x"}, True),
    ],
)
def test_functions_outside_the_dialect(target: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node = contents["nodes"][1]
        node |= {"op": "call_function", "target": target, "args": ["fxquant_canary"]}

    refused(path, change, "not in the dialect")


@pytest.mark.parametrize(
    "target",
    [
        *("numpy", "tolist", "item", "data_ptr", "tofile", "set_", "copy_", "add_", "share_memory_", "register_hook"),
        *("apply_", "map_", "storage", "untyped_storage", "cuda", "backward", "__reduce_ex__", "__class__", "format"),
        *("__getattribute__", "view.__call__", "requires_grad_", "resize_", "new", "type", "put_", "index_put_"),
    ],
)
def test_methods_outside_the_dialect(target: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": "call_method", "target": target, "args": [{"node": "x"}]}

    refused(path, change, "not in the dialect|expected an identifier")


def test_methods_of_other_things_than_nodes(path: Path) -> None:
    for args in ([], ["{0.__class__}"], [{"tuple": [{"node": "x"}]}]):

        def change(contents: Any, tensors: dict[str, Tensor], args: Any = args) -> None:
            contents["nodes"][1] |= {"op": "call_method", "target": "split", "args": args}

        refused(path, change, "expected the tensor whose method")


@pytest.mark.parametrize(
    "args",
    [
        *([{"node": "x"}, name] for name in ("__class__", "__dict__", "data", "grad_fn", "storage", "f_back", "")),
        *([{"node": "x"}, {"node": "x"}], [{"node": "x"}], [{"node": "x"}, "shape", None], ["shape", "shape"], []),
        [{"node": "x"}, {"tuple": ["shape"]}],
        [{"node": "x"}, 3],
    ],
)
def test_getattr_reads_attributes_like_shape_only(args: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": "call_function", "target": "builtins.getattr", "args": args}

    refused(path, change, "getattr expects")


def test_writing_to_an_argument(path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        added: dict[str, Any] = {"target": "torch.add", "args": [{"node": "x"}, 1]}
        contents["nodes"][1] |= {"op": "call_function", "kwargs": {"out": {"node": "x"}}} | added

    refused(path, change, "out= writes")


@pytest.mark.parametrize(
    ("op", "args"),
    [
        *(("placeholder", [1]), ("placeholder", [{"node": "x"}]), ("get_attr", [1]), ("call_module", []), ("root", [])),
        *(("call_module", [{"node": "x"}, 1]), ("call_module", ["x"]), ("output", []), ("output", [1, 2])),
        *(("eval", []), ("", []), (None, []), (3, []), ("get_attr", {"node": "x"}), ("placeholder", None)),
    ],
)
def test_other_kinds_of_nodes(op: Any, args: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": op, "args": args}

    refused(path, change)


def test_references_point_backwards(path: Path) -> None:
    contents, _ = helpers.read_parts(path)
    last = contents["nodes"][-2]["name"]
    for name in (last, "nothing", contents["nodes"][1]["name"], 3, None, ["x"]):

        def change(contents: Any, tensors: dict[str, Tensor], name: Any = name) -> None:
            contents["nodes"][1]["args"][0] = {"node": name}

        refused(path, change, "no earlier node defines")


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


def other_shape(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["head.scale"] = torch.ones(6)


def other_dtype(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["head.scale"] = torch.ones(5, dtype=torch.float64)


def other_dtype_of_codes(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["head.weight_int8"] = tensors["head.weight_int8"].float()
    contents["tensors"]["head.weight_int8"] |= {"dtype": "float32"}


def packed_that_is_not(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["tensors"]["head.weight_int8"]["lowest"] = -8


def packed_floats(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["head.scale"] = torch.zeros(3, dtype=torch.uint8)
    contents["tensors"]["head.scale"]["lowest"] = 0


def too_low(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["head.weight_int8"] = torch.zeros((tensors["head.weight_int8"].numel() + 1) // 2, dtype=torch.uint8)
    contents["tensors"]["head.weight_int8"]["lowest"] = -(10**6)


def odd_order(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["tensors"]["head.weight_int8"]["order"] = [0, 0]


def huge_shape(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["tensors"]["head.scale"]["shape"] = [2**62, 2**62]


def missing_tensor(contents: Any, tensors: dict[str, Tensor]) -> None:
    del tensors["head.scale"]


def extra_tensor(contents: Any, tensors: dict[str, Tensor]) -> None:
    tensors["extra"] = torch.zeros(1)


def missing_slot(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["slots"] = [slot for slot in contents["slots"] if slot["name"] != "head.scale"]


def twice_the_same_slot(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["slots"].append(contents["slots"][0])


def odd_kind_of_slot(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["slots"][0]["kind"] = "module"


def integer_parameter_with_gradient(contents: Any, tensors: dict[str, Tensor]) -> None:
    slot = next(s for s in contents["slots"] if s["name"] == "head.weight_int8")
    slot |= {"kind": "parameter", "requires_grad": True}


@pytest.mark.parametrize(
    "name", ["forward", "code", "graph", "training", "meta", "_modules", "head", "head.scale.x", "T"]
)
def test_a_tensor_in_the_place_of_something_else(name: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["slots"].append(contents["slots"][-1] | {"name": name})

    if name == "T":
        forge(path, change)
        assert "T" in fxquant.load(path).state_dict()
    else:
        refused(path, change)


@pytest.mark.parametrize(
    "change",
    [
        *(other_shape, other_dtype, other_dtype_of_codes, packed_that_is_not, packed_floats, too_low, odd_order),
        *(huge_shape, missing_tensor, extra_tensor, missing_slot, twice_the_same_slot, odd_kind_of_slot),
        integer_parameter_with_gradient,
    ],
)
def test_tensors_that_do_not_fit(change: Change, path: Path) -> None:
    refused(path, change)


def set_module(key: str, value: Any) -> Change:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        next(m for m in contents["modules"] if m["type"] == "observer")[key] = value

    change.__name__ = f"{key}={str(value)[:30]}"
    return change


def no_such_module(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["modules"].pop()


def the_same_module_twice(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["modules"].append(contents["modules"][-1])


def foreign_state(contents: Any, tensors: dict[str, Tensor]) -> None:
    slot = next(s for s in contents["slots"] if s["name"].endswith(".minimum"))
    contents["slots"].append(slot | {"name": slot["name"].replace("minimum", "evil")})


def state_in_the_place_of_a_method(contents: Any, tensors: dict[str, Tensor]) -> None:
    slot = next(s for s in contents["slots"] if s["name"].endswith(".minimum"))
    contents["slots"].append(slot | {"name": slot["name"].replace("minimum", "forward")})


def lost_state(contents: Any, tensors: dict[str, Tensor]) -> None:
    slot = next(s for s in contents["slots"] if s["name"].endswith(".minimum"))
    contents["slots"].remove(slot)


def state_of_another_dtype(contents: Any, tensors: dict[str, Tensor]) -> None:
    name = next(s["tensor"] for s in contents["slots"] if s["name"].endswith(".batches"))
    tensors[name] = tensors[name].float()
    contents["tensors"][name]["dtype"] = "float32"


def state_of_more_axes(contents: Any, tensors: dict[str, Tensor]) -> None:
    name = next(s["tensor"] for s in contents["slots"] if s["name"].endswith(".batches"))
    tensors[name] = tensors[name].reshape(1, 1)
    contents["tensors"][name]["shape"] = [1, 1]


def state_as_a_parameter(contents: Any, tensors: dict[str, Tensor]) -> None:
    next(s for s in contents["slots"] if s["name"].endswith(".minimum"))["kind"] = "parameter"


def observer_in_a_lowered_graph(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["stage"] = "lowered"


ODD_SPECS: list[Any] = [None, {}, {"type": "Record"}, {"type": "TensorSpec", "bits": 64}, []]


@pytest.mark.parametrize(
    "change",
    [
        *(no_such_module, the_same_module_twice, foreign_state, state_in_the_place_of_a_method, lost_state),
        *(state_of_another_dtype, state_of_more_axes, state_as_a_parameter, observer_in_a_lowered_graph),
        *(set_module("type", kind) for kind in ("torch.nn.Linear", "Observer", "", None)),
        *(set_module("spec", spec) for spec in ODD_SPECS),
        *(set_module("frozen", value) for value in (None, 1, "yes")),
        *(set_module("operand", value) for value in (None, 1, "a\nb")),
        *(set_module("path", value) for value in ("head", "observers", "", "forward", "observers.forward", None)),
    ],
    ids=lambda change: change.__name__,
)
def test_observers_that_do_not_fit(change: Change, prepared: Path) -> None:
    refused(prepared, change)


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


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.floats(allow_nan=False, allow_infinity=False))
    | st.sampled_from([*INJECTIONS, "x", "head", "forward", "shape", "observer", "parameter", "float32", "lowered"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["node", "tuple", "list", "dict", "slice", "dtype", "type", "name", "x"]), inner
        )
    ),
    max_leaves=5,
)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Return every container of a JSON value with every key in it."""
    found: list[tuple[Any, Any]] = []
    stack = [data]
    while stack:
        container = stack.pop()
        keys = container.keys() if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                stack.append(container[key])
    return found


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), stage=st.sampled_from(["int8", "calibrated"]))
def test_any_header_is_refused_or_is_a_graph_of_the_dialect(data: st.DataObject, stage: str, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.safetensors"
    if not hasattr(places, stage):
        fxquant.save(at_stage("conv", stage), path)
        setattr(places, stage, helpers.read_parts(path))
    contents, tensors = getattr(places, stage)
    contents = copy.deepcopy(contents)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(contents)))
        container[key] = copy.deepcopy(data.draw(st.sampled_from([v[k] for v, k in places(contents)]) | JSON))
    file.write(str(path), contents, tensors)
    loaded, problem = None, ""
    try:
        loaded = fxquant.load(path)
    except CheckpointError as error:
        problem = str(error)
    assert "SyntaxError" not in problem
    for node in loaded.graph.nodes if loaded else ():
        if node.op in ("call_function", "call_method"):
            assert dialect.refusal(node.op, node.target, node.args, node.kwargs) is None
