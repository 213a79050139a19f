"""Files whose observers do not fit their description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.support.hostile import Change, refused


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
