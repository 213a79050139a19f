"""`bench.train_step`: the published formulation gives the loss and gradients of ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import train_step
from fxquant.numerics.learned_step import initial_weight_scale

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("deit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 10}),
    (
        "sret_tiny",
        {"img_size": 64, "depth": (2, 2, 2), "recursive_num": (1, 1, 1), "groups1": (1, 1, 1), "groups2": (1, 1, 1)},
    ),
]


@pytest.mark.parametrize(("name", "arguments"), SMALL, ids=[name for name, _ in SMALL])
@pytest.mark.long
def test_both_forms_agree(name: str, arguments: dict[str, Any]) -> None:
    row = train_step.compare(name, 2, 1, size=arguments["img_size"], **arguments)
    assert row["loss_difference"] < 1e-5
    assert row["gradient_difference"] < 1e-3
    assert set(row["results"]) == {"fxquant", "published", "float"}


def test_both_searches_find_the_same_scales() -> None:
    name, arguments = SMALL[0]
    row = train_step.initialise(name, **arguments)
    assert row["scale_difference"] < 1e-4
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    assert abs(train_step.alternate(weight, 4) / initial_weight_scale(weight, 4) - 1) < 1e-5
