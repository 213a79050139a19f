"""Files whose tensors do not fit their description, or stand where something else belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxquant
from tests.support.checkpoints import forge
from tests.support.hostile import Change, refused


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
