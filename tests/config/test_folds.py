"""`Folds` and the option that names them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant.config.folds import Folds, Reparameterize, Smooth, folds_of
from fxquant.errors import ConfigError


def test_names_are_folds() -> None:
    assert folds_of(None) is None
    assert folds_of("rotate+reparameterize") == Folds(rotate=True, norms=Reparameterize())
    assert folds_of("smooth") == Folds(norms=Smooth(0.5))
    assert folds_of(Folds(seed=3)) == Folds(seed=3)
    assert fxquant.recipe("minmax", folds="layer_scale+affine").folds == Folds(layer_scale=True, affine=True)
    assert fxquant.recipe("ptq4vit").folds is None


@pytest.mark.parametrize("value", ["", "turn", "smooth+reparameterize", "rotate+", True, 3, ["rotate"]])
def test_other_names_are_refused(value: Any) -> None:
    with pytest.raises(
        ConfigError, match="expected layer_scale, affine, center, rotate, rotate_heads, reparameterize, smooth"
    ):
        fxquant.recipe("minmax", folds=value)


def test_wrong_fields_are_refused() -> None:
    wrong: Any = "yes"
    with pytest.raises(ConfigError, match=r"Folds\.rotate"):
        Folds(rotate=wrong)
    with pytest.raises(ConfigError, match=r"Folds\.norms"):
        Folds(norms=wrong)
    with pytest.raises(ConfigError, match=r"Folds\.seed"):
        Folds(seed=-1)
    with pytest.raises(ConfigError, match=r"Smooth\.alpha"):
        Smooth(1.5)
    with pytest.raises(ConfigError, match=r"QuantConfig\.folds"):
        fxquant.QuantConfig(folds=wrong)


def test_training_needs_parameters() -> None:
    with pytest.raises(ConfigError, match="folds"):
        fxquant.prepare_qat(nn.Linear(4, 4).eval(), fxquant.recipe("vvtq", 4, 4, folds="rotate"), torch.randn(1, 4))
