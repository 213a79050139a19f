"""W8A16: weights alone are quantised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import ConfigError, LayerSpec
from fxquant.config.operands import Role


def test_weight_only_leaves_every_activation_float_and_the_weight_as_it_is() -> None:
    spec = fxquant.recipe("ptq4vit").layer
    assert spec is not None
    found = spec.weight_only()
    assert found.spec_for(Role.WEIGHT) == spec.weight
    assert {role for role in Role if found.spec_for(role) is not None} == {Role.WEIGHT}


@pytest.mark.parametrize("name", ["minmax", "noisyquant"])
def test_sixteen_bits_leave_activations_float(name: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 4)).eval(), torch.randn(64, 16)
    quantized = fxquant.quantize(model, [x], name, 8, 16, progress=False)
    with torch.no_grad():
        error = (quantized(x) - model(x)).norm() / model(x).norm()
    rows = fxquant.report(quantized)
    assert 0 < error < 0.01, "of the weights' rounding alone"
    assert {row.reason for row in rows} == {"the weight alone is quantised, and multiplies floats"}
    assert "input float32, weight int8" in str(rows)


def test_one_layer_alone_may_have_float_inputs() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 4)).eval(), torch.randn(64, 16)
    config = fxquant.recipe("minmax").set_module_name("2", LayerSpec().weight_only())
    prepared = fxquant.calibrate(fxquant.prepare(model, config, x), [x], progress=False)
    rows = {row.name: row.int8 for row in fxquant.report(fxquant.convert(prepared))}
    assert rows == {"0": True, "2": False}


def test_a_placement_and_sixteen_bits_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="recipes without one"):
        fxquant.recipe("fqvit", 8, 16)
