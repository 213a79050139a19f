"""The checks of `bench.gpu` on the CPU: their calls are right there, and they tell what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.gpu import checks, float8_checks, model_checks, operands
from bench.gpu.checks import CHECKS, OBSTACLES
from bench.gpu.comparison import unlike
from bench.gpu.model_checks import FLOAT8_MODELS, MODELS, CheckedModel
from fxquant.kernels import float8
from fxquant.ops.float8_linear import scaled_mm

SMALL = ((5, 20, 12), (16, 16, 16))
SLOW = ("tiles", "models", "models on float8")  # which need kernels that try tiles, or compile


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operands, "DEVICE", "cpu")
    for module in (checks, float8_checks):
        monkeypatch.setattr(module, "LAYERS", SMALL)


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in SLOW])
def test_every_check_passes_on_the_cpu(name: str) -> None:
    found = list(CHECKS[name]())
    assert found
    assert [problem for problem in found if problem] == []


def test_every_kind_of_product_has_a_model() -> None:
    assert {model.recipe for model in MODELS} >= {"default", "erq", "adalog", "repq", "rotate", "dynamic", "fqvit"}
    assert all(model.options["codes"] == "e4m3" for model in FLOAT8_MODELS)


@pytest.mark.long
@pytest.mark.parametrize("model", [MODELS[5], FLOAT8_MODELS[0]._replace(thorough=False)], ids=str)
def test_models_are_compared(model: CheckedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "MODELS", (model,))
    assert list(model_checks.check_models()) == [None, None]  # eager, and by torch's operators
    monkeypatch.setattr(model_checks, "MOST", 0.0)
    assert str(next(model_checks.check_models())).startswith(f"{model} eager: relative errors [")


def test_wrong_float8_products_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., torch.Tensor] = scaled_mm
    monkeypatch.setattr(float8_checks, "scaled_mm", lambda *given: right(*given) * 1.1)
    assert "off by 0." in str(next(float8_checks.check_float8()))


def test_what_has_no_units_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(float8, "obstacle", lambda device: "an old GPU")
    monkeypatch.setattr(checks, "CHECKS", dict.fromkeys(OBSTACLES, never))
    assert checks.run_checks() is None
    assert capsys.readouterr().out.splitlines() == [f"skipped {name}: an old GPU" for name in OBSTACLES]


def never() -> Iterator[Any]:
    raise AssertionError("it was skipped")


def test_how_results_differ() -> None:
    one = torch.zeros(1000, dtype=torch.int8)
    other = one.clone()
    other[0] = 1
    assert unlike(one, one, "x") is None
    assert unlike(other, one, "x", rate=2e-3) is None
    assert unlike(other, one, "x") == "x: 0.10% of the results differ, by up to 1"
    assert unlike(other * 2, one, "x", rate=2e-3) == "x: 0.10% of the results differ, by up to 2"
    assert unlike(one.float(), one, "x") == "x: torch.float32 (1000,), expected torch.int8 (1000,)"
