"""Weights of one bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fxquant.config.operands import TensorSpec
from fxquant.errors import ConfigError
from fxquant.numerics.granularity import PerHead, RowGroups
from fxquant.observers import BinaryWeightQuantizer, BinaryWeightStep

RECORDED = load_file(Path(__file__).parents[1] / "data" / "vvtq_quant.safetensors")
ONE_BIT = TensorSpec(2, True, True, observer=BinaryWeightStep(), narrow=True)


def test_value_and_gradient_are_the_published_ones() -> None:
    weight = RECORDED["binary/w"].clone().requires_grad_()
    out = F.linear(RECORDED["binary/act"], ONE_BIT.build("w")(weight), RECORDED["binary/bias"])
    assert torch.allclose(out, RECORDED["binary/out"], atol=1e-6)
    torch.autograd.backward((out * RECORDED["binary/grad_out"]).sum())
    assert weight.grad is not None
    assert torch.allclose(weight.grad, RECORDED["binary/grad_w"], atol=1e-6)


def test_row_groups_have_sizes_of_their_own() -> None:
    module = TensorSpec(2, True, True, RowGroups(2), BinaryWeightStep(), narrow=True).build("w")
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    assert torch.equal(module(weight), torch.tensor([[2.0, -2.0], [0.5, 0.5]]))
    assert torch.equal(module.calculate_qparams().scale, torch.tensor([2.0, 0.5]))


def test_the_size_follows_the_weight() -> None:
    module = ONE_BIT.build("w")
    assert isinstance(module, BinaryWeightQuantizer)
    module(torch.ones(2, 2))
    assert torch.equal(module(torch.full((2, 2), -3.0)), torch.full((2, 2), -3.0))
    assert module.calculate_qparams().scale == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 3, "signed": True, "symmetric": True, "narrow": True},
        {"bits": 2, "signed": True, "symmetric": True},
        {"bits": 2, "signed": True, "symmetric": True, "narrow": True, "granularity": PerHead()},
    ],
)
def test_other_codes_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="one bit"):
        TensorSpec(observer=BinaryWeightStep(), **arguments)  # type: ignore[arg-type]
