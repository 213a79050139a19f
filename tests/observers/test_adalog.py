"""The observers of powers of a fitted base: what they refuse, what a search chooses from, and what it finds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import AdaLogGELU, AdaLogSoftmax, LayerSpec, QuantConfig, ScaleSearch, TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.adalog import RESOLUTION
from fxquant.observers.adalog import AdaLogObserver
from fxquant.ops import dequantize, fake_quantize_adalog, quantize_adalog
from tests.support.searching import observers

MULTIPLIERS = torch.tensor([0.5, 1.0])


def peaked() -> Tensor:
    return F.softmax(6 * torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)), -1)


def activations() -> Tensor:
    return F.gelu(3 * torch.randn(50, 8, generator=torch.Generator().manual_seed(1)))


def observed(spec: AdaLogGELU | AdaLogSoftmax, x: Tensor) -> Any:
    observer = spec.build("site")
    observer(x)
    return observer


@pytest.mark.parametrize("spec", [AdaLogSoftmax, AdaLogGELU])
@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"bits": True}, {"bits": 4.0}, {"published": 1}])
def test_refuses_options_that_mean_nothing(spec: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{spec.__name__}.{next(iter(options))} must be"):
        spec(**options)


@pytest.mark.parametrize("minimum", [0.0, 0.1, float("-inf"), -1])
def test_refuses_a_function_without_negative_values(minimum: Any) -> None:
    with pytest.raises(ConfigError, match=r"AdaLogGELU.minimum must be a negative number"):
        AdaLogGELU(minimum=minimum)


def test_refuses_roles_that_have_no_such_values() -> None:
    with pytest.raises(ConfigError, match=r"LayerSpec.softmax must be a .*AdaLogSoftmax"):
        LayerSpec(softmax=AdaLogGELU())
    with pytest.raises(ConfigError, match=r"LayerSpec.gelu must be a .*AdaLogGELU"):
        LayerSpec(gelu=AdaLogSoftmax())


@pytest.mark.parametrize("x", [torch.tensor([0.5, -0.1]), torch.tensor([0.5, 1.1])])
def test_refuses_what_are_no_probabilities(x: Tensor) -> None:
    with pytest.raises(CalibrationError, match="expected probabilities, found values from"):
        observed(AdaLogSoftmax(), x)


def test_before_a_search_the_smallest_power_is_a_step_of_the_grid() -> None:
    assert [float(observed(AdaLogSoftmax(b), peaked()).initial_qparams().base) for b in (3, 4, 6)] == [42, 20, 5]
    assert float(observed(AdaLogSoftmax(6, published=True), peaked()).initial_qparams().base) == 10
    x = activations()
    published = observed(AdaLogGELU(published=True), x).initial_qparams().largest
    torch.testing.assert_close(published, x.max() + 0.16997124)


@pytest.mark.parametrize("largest", [0.5, 7.0, 40.0, 50.0])
def test_the_shift_is_a_whole_number_of_steps_where_it_is_one_at_all(largest: float) -> None:
    observer = observed(AdaLogGELU(), torch.tensor([-0.1, largest]))
    found, before = observer.initial_qparams(), largest + 0.16997124
    steps = 0.16997124 * 255 / before
    assert float(found.largest) == pytest.approx(before if steps < 1 else before * steps / math.floor(steps))
    least = float(observer.fake_quantize(torch.tensor(-0.17), found))
    assert (least == pytest.approx(-0.16997124, rel=1e-5)) is (steps >= 1)


@pytest.mark.parametrize(("spec", "count"), [(AdaLogSoftmax(), 128), (AdaLogGELU(published=True), 16 * 128)])
def test_all_bases_are_candidates_and_for_gelu_with_each_scale(spec: Any, count: int) -> None:
    observer = observed(spec, peaked())
    initial = observer.initial_qparams()
    assert observer.candidates(MULTIPLIERS) == count
    every = [observer.candidate(initial, MULTIPLIERS, torch.tensor(i)) for i in range(count)]
    assert len({(float(q.largest), float(q.base)) for q in every}) == count
    bases = {float(q.base) for q in every}
    assert (min(bases), max(bases)) == ((10, 137) if spec.published else (1, 128))
    largest = sorted({float(q.largest) / float(initial.largest) for q in every})
    assert (largest[0], largest[-1]) == pytest.approx((2**-3.75 if count > 128 else 1, 1))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("role", ["softmax", "gelu"])
def test_what_a_search_sees_is_what_the_operators_give(role: str, published: bool) -> None:
    x = peaked() if role == "softmax" else activations()
    observer = observed((AdaLogSoftmax if role == "softmax" else AdaLogGELU)(4, published), x)
    found, a = observer.calculate_qparams(), observer.operator_arguments()
    own = (a["largest"], a["step"])
    if published:
        values = fake_quantize_adalog(x, *own, a["levels"], a["shift"])
    else:
        codes = quantize_adalog(x, *own, a["table"], a["shift"])
        values = dequantize(codes, a["scale"], a["zero_point"], a["qmin"], a["qmax"])
    assert observer.fake_quantize(x, found).equal(values)
    assert 3 < len(values.unique()) <= 17
    assert float((values - x).norm()) < 0.2 * float(x.norm())
    least = float(observer.fake_quantize(torch.tensor([-0.17 if role == "gelu" else 0.0]), found))
    assert least == pytest.approx(-0.16997 if role == "gelu" else 0, abs=float(found.scale) / 2 + 1e-4)


class Mixed(nn.Module):
    """Values ``(B, H, N, D)`` mixed by a peaked softmax of them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x @ x.mT, -1) @ x


def test_a_search_finds_a_better_base_than_two_and_tells_what_the_table_adds() -> None:
    x = 1.5 * torch.randn(2, 2, 12, 8, generator=torch.Generator().manual_seed(3))
    layer = LayerSpec(activation=None, softmax=AdaLogSoftmax(3), value=TensorSpec(8), search=ScaleSearch(rounds=1))
    prepared = fxquant.prepare(Mixed().eval(), QuantConfig(layer, attention=True))
    fxquant.calibrate(prepared, [x], progress=False)
    (observer,) = [o for o in observers(prepared).values() if isinstance(o, AdaLogObserver)]
    assert observer.refined
    probabilities, y = F.softmax(x @ x.mT, -1), Mixed()(x)

    def error(base: float) -> float:
        found = observer.calculate_qparams()
        qparams = type(found)(found.largest, torch.tensor(base))
        return float((observer.fake_quantize(probabilities, qparams) @ x - y).norm())

    best = float(observer.calculate_qparams().base)
    assert error(best) < 0.9 * error(37.0)
    assert error(best) <= 1.02 * min(error(float(q)) for q in range(1, 129))

    (told,) = [o.table_error for row in fxquant.report(prepared) for o in row.operands if o.table_error is not None]
    (values,) = [o for o in observers(prepared).values() if isinstance(o.spec, TensorSpec) and not o.frozen]
    value = values.fake_quantize(x, values.calculate_qparams())
    codes = torch.round(-torch.log2(probabilities) * RESOLUTION / best)
    powers = torch.where(codes < 8, torch.exp2(-codes * best / RESOLUTION), 0.0)
    change = (torch.round(255 * powers) / 255 - powers) @ value
    in_all = observer.fake_quantize(probabilities, observer.calculate_qparams()) @ value - y
    assert told == pytest.approx([float(each.norm() / y.norm()) for each in (change, in_all)], rel=1e-3)
