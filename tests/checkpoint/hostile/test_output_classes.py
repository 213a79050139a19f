"""Files that name classes for what the model returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from tests.support.checkpoints import forge, node_of
from tests.support.hostile import INJECTIONS, refused


class Pair(nn.Module):
    """Returns a dictionary of a class of its own."""

    def forward(self, x: Tensor) -> Any:
        """Return the two halves of ``(B, 4)``."""
        one, two = x.chunk(2, 1)
        return type("Own", (dict,), {})(one=one, two=two)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    target = tmp_path / "output.safetensors"
    fxquant.save(fxquant.trace(Pair().eval()), target)
    return target


@pytest.mark.parametrize("place", ["kind", "class", "field"])
@pytest.mark.parametrize(
    "name", [*INJECTIONS, "os:system", "fxquant_canary:X", "transformers.fxquant_canary.__init__", "builtins:dict"]
)
def test_names_are_only_names(output: Path, place: str, name: str) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        args = node_of(contents, "fxquant.ops.make_output")["args"]
        if place == "field":
            args[0] = "dataclass"
            args[2]["tuple"][0] = name
        else:
            args[("kind", "class").index(place)] = name

    refused(output, change, "make_output")


@pytest.mark.parametrize(
    "name", ["transformers.fxquant_canary:X", "timm.fxquant_canary:X", "torchvision:fxquant_canary"]
)
def test_nothing_is_imported_for_a_trusted_name(output: Path, name: str) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, "fxquant.ops.make_output")["args"][1] = name

    forge(output, change)
    found = fxquant.load(output)(torch.ones(1, 4))
    assert type(found).__module__ == "fxquant.ops.output_class"
    assert found["one"].tolist() == [[1, 1]]
