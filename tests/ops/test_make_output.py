"""What models return: taken apart and put together, by the class itself or by one that stands for it."""

from __future__ import annotations

import collections
import dataclasses
import sys
import types
from typing import Any, NamedTuple

import pytest
import torch

from fxquant.ops.make_output import make_output, map_output, output_leaves, output_obstacle, written_output
from fxquant.ops.output_class import is_portable, portable_name


@dataclasses.dataclass(frozen=True)
class Found:
    logits: Any
    states: Any = None
    count: int = dataclasses.field(init=False, default=2)

    def __post_init__(self) -> None:
        if isinstance(self.logits, str):
            raise AssertionError("this was made before")


class Pair(NamedTuple):
    one: Any
    two: Any


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict[str, Any]):
    """As in transformers: the fields that are not None are keys."""

    loss: Any = None
    logits: Any = None

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)


def put_together(value: Any, portable: bool = False) -> Any:
    """Return `value` taken apart, and made again; portable: as a file would have it."""

    def make(function: Any, args: tuple[Any, ...]) -> Any:
        kind, name, fields, values = args
        assert output_obstacle((kind, portable_name(name), fields, values)) is None
        return function(kind, portable_name(name) if portable else name, fields, values)

    return written_output(value, lambda leaf: leaf, make)


def model_output() -> ModelOutput:
    output = ModelOutput()
    output["logits"] = 1.5
    return output


VALUES = [
    Found("logits" and 1.0, (Pair(1, [2, None]),)),
    Pair({"a": 1}, Found(2, 3)),
    collections.OrderedDict([("blocks.0", 1), ("0", 2)]),
    model_output(),
    (1, [2.0, {"a": None}]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_class_itself_comes_back(value: Any) -> None:
    found = put_together(value)
    assert type(found) is type(value)
    assert found == value
    assert list(output_leaves(found)) == list(output_leaves(value))


def test_stand_ins_are_read_as_the_class() -> None:
    found = put_together(VALUES[0], portable=True)
    assert (type(found).__name__, found.logits, found.count) == ("Found", 1.0, 2)
    assert type(found) is not Found
    assert dataclasses.asdict(found)["count"] == 2
    one, two = put_together(Pair(1, 2), portable=True)
    assert (one, two) == (1, 2)
    output = put_together(model_output(), portable=True)
    assert (output.logits, output["logits"], output[0], output.loss, list(output)) == (1.5, 1.5, 1.5, None, ["logits"])
    assert output.to_tuple() == (1.5,)
    assert isinstance(output, dict)
    with pytest.raises(AttributeError, match="'ModelOutput' object has no attribute 'scores'"):
        output.scores  # type: ignore[attr-defined]  # noqa: B018


def test_no_code_of_a_class_runs_when_it_is_made() -> None:
    assert put_together(VALUES[0]).count == 2
    with pytest.raises(AssertionError):
        Found("text")
    found = make_output("dataclass", "tests.ops.test_make_output:Found", ("logits",), ("text",))
    assert found.logits == "text"


def test_classes_of_one_name_are_told_apart() -> None:
    def make() -> type:
        return dataclasses.make_dataclass("Local", ["a"])

    one, two = make()(1), make()(2)
    assert type(put_together(one)) is type(one)
    assert type(put_together(two)) is type(two)
    assert type(put_together(one)) is type(one)
    assert portable_name("m:f.<locals>.Local#2") == "Local"


def test_a_trusted_class_is_used_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("transformers.of_a_test")

    def read(name: str) -> Any:
        raise AssertionError(f"{name} would be imported")

    module.__getattr__ = read  # as a lazy package has one
    name = "transformers.of_a_test:Output"
    assert type(make_output("dict", name, ("a",), (1,))).__name__ == "Output"
    monkeypatch.setitem(sys.modules, "transformers.of_a_test", module)
    assert make_output("dict", name, ("a",), (1,)).a == 1  # it stands in still
    module.Output = type("Output", (dict,), {})
    assert type(make_output("dict", name, ("a",), (1,))) is module.Output
    assert type(make_output("namedtuple", name, ("a",), (1,))) is not module.Output  # which is no named tuple
    assert portable_name(name) == name


@pytest.mark.parametrize(
    "name", ["os:system", "os.path:join", "transformers.a.b", "transformers:a.b", "a b", "class", ""]
)
def test_a_file_names_no_other_class(name: Any) -> None:
    assert not is_portable(name)
    reason = output_obstacle(("dict", name, (), ()))
    assert reason is not None
    assert "expected a class of a trusted package, or a plain name" in reason


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("list", "Found", (), ()),
        ("dict", "Found", ("a",), ()),
        ("dict", "Found", ("a", "a"), (1, 2)),
        ("dataclass", "Found", ("a b",), (1,)),
        ("namedtuple", "Found", ("class",), (1,)),
        ("namedtuple", "Found", ("_a",), (1,)),
        ("dict", "Found", "ab", (1, 2)),
        (["dict"], "Found", (), ()),
        ("dict", "Found", (["a"],), (1,)),
    ],
)
def test_arguments_that_make_no_output_are_refused(args: Any) -> None:
    assert output_obstacle(args) is not None


def test_tensors_are_changed_within_any_output() -> None:
    value = Found(torch.ones(2), (Pair(torch.ones(1), None),))
    found = map_output(value, lambda leaf: leaf + 1 if isinstance(leaf, torch.Tensor) else leaf)
    assert found.logits.tolist() == [2, 2]
    assert found.states[0].one.tolist() == [2]
