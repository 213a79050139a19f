"""What the options of fitted weights may be."""

from __future__ import annotations

from typing import Any

import pytest

from fxquant import ConfigError, Correction, Rounding, WeightFit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "gptq"}, "WeightFit.rounding must be one of"),
        ({"correction": True}, "WeightFit.correction must be one of"),
        ({"inputs_from": None}, "WeightFit.inputs_from must be one of"),
        ({"clip": 1}, "WeightFit.clip must be True or False, got 1"),
        ({"act_order": None}, "WeightFit.act_order must be True or False"),
        ({"block": 0}, "WeightFit.block must be a whole number of at least 1, got 0"),
        ({"damping": 0}, "WeightFit.damping must be a finite number above 0, got 0"),
        ({"asymmetry": float("nan")}, "WeightFit.asymmetry must be a finite number of at least 0"),
        ({"ridge": 1.0}, "WeightFit.ridge must be a tuple of finite numbers above 0, got 1.0"),
        ({"ridge": (0.0,)}, "WeightFit.ridge must be a tuple of finite numbers above 0"),
        ({"ridge": (1.0,), "correction": None}, "a ridge moves the bias with the weights"),
        ({"asymmetry": 1.0, "rounding": Rounding.ERQ}, "asymmetry is a part of Rounding.GPTQ"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightFit(**options)


def test_what_it_needs() -> None:
    assert not WeightFit().compares
    assert WeightFit().centred
    assert not WeightFit(correction=None).centred
    for options in ({"asymmetry": 0.25}, {"ridge": (1.0,)}, {"correction": Correction.AFFINE}):
        assert WeightFit(**options).compares  # type: ignore[arg-type]
    assert [WeightFit(ridge=ridge).holds_out for ridge in ((), (1.0,), (0.1, 1.0))] == [False, False, True]
