"""Which graphs are trained, and which of their weights have learned steps."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant import LayerSpec, LearnedStep, QuantConfig, RowGroups, TensorSpec
from fxquant.graph.trained import is_trained, weight_quantizers
from fxquant.observers import BinaryWeightStep, LearnedWeightStep, MinMax, Observer
from tests.support.models import Shared

STEP = TensorSpec(4, signed=True, symmetric=True, observer=LearnedStep())
WEIGHT_STEP = TensorSpec(4, signed=True, symmetric=True, observer=LearnedWeightStep())
SIGN = TensorSpec(2, signed=True, symmetric=True, observer=BinaryWeightStep(), narrow=True)


def prepared(weight: TensorSpec | None, activation: TensorSpec | None) -> fx.GraphModule:
    return fxquant.prepare_qat(
        nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)).eval(), config(weight, activation)
    )


def config(weight: TensorSpec | None, activation: TensorSpec | None) -> QuantConfig:
    return QuantConfig(LayerSpec(weight, activation))


@pytest.mark.parametrize(("weight", "activation"), [(WEIGHT_STEP, STEP), (SIGN, STEP), (SIGN, None), (None, STEP)])
def test_one_learned_quantiser_makes_a_graph_trained(weight: TensorSpec | None, activation: TensorSpec | None) -> None:
    assert is_trained(prepared(weight, activation))


def test_a_graph_of_statistics_alone_is_not_trained() -> None:
    minmax = TensorSpec(4, signed=True, symmetric=True, observer=MinMax())
    gm = fxquant.prepare(nn.Linear(4, 6).eval(), config(minmax, minmax))
    assert any(isinstance(m, Observer) for m in gm.modules())
    assert not is_trained(gm)
    assert not is_trained(fxquant.trace(nn.Linear(4, 6).eval()))


def test_gives_each_learned_weight_with_its_quantiser() -> None:
    gm = prepared(WEIGHT_STEP, STEP)
    found = list(weight_quantizers(gm))
    assert [weight is gm.get_parameter(f"{name}.weight") for (_, weight), name in zip(found, "02", strict=True)] == [
        True,
        True,
    ]
    for module, weight in found:
        assert module.scale.numel() == 1
        assert module(weight).unique().numel() <= 16


def test_a_weight_that_two_calls_share_comes_once() -> None:
    gm = fxquant.prepare_qat(Shared().eval(), config(WEIGHT_STEP, STEP))
    assert sum(n.target is torch.nn.functional.linear for n in gm.graph.nodes) == 2
    assert [weight.shape for _, weight in weight_quantizers(gm)] == [(8, 8)]


@pytest.mark.parametrize("weight", [SIGN, None])
def test_binary_and_float_weights_have_no_step(weight: TensorSpec | None) -> None:
    assert list(weight_quantizers(prepared(weight, STEP))) == []


def test_refuses_what_is_no_graph() -> None:
    with pytest.raises(TypeError, match=r"expected a graph of fxquant\.prepare_qat, found a Linear"):
        list(weight_quantizers(nn.Linear(2, 2)))


def test_what_is_trained_says_of_how_many_bits_it_is() -> None:
    learned = TensorSpec(4, signed=True, symmetric=True, observer=LearnedStep(learned_bits=True))
    specs = {"step": STEP, "learned": learned, "sign": SIGN, "statistics": TensorSpec(4)}
    observers = {name: spec.build(name) for name, spec in specs.items()}
    for observer in observers.values():
        observer(torch.randn(8, 4))
    bits = observers["learned"].trained_bits()
    assert isinstance(bits, torch.Tensor)
    assert (float(bits.detach()), bits.requires_grad) == (4.0, True)
    assert [observers[name].trained_bits() for name in ("step", "sign", "statistics")] == [4.0, 1.0, None]
    assert [o.learns_bits for o in observers.values()] == [False, True, False, False]
    assert [o.initial_bits for o in observers.values()] == [4, 4, 1, 4]


def test_row_groups_of_several_widths_are_clamped_to_their_own_codes() -> None:
    spec = TensorSpec(
        4, signed=True, symmetric=True, granularity=RowGroups(2), observer=LearnedWeightStep(learned_bits=True)
    )
    observer, weight = spec.build("site"), torch.randn(6, 4)
    observer(weight)
    assert observer.settled_weight(weight) is None  # as long as both groups have one width
    observer.get_parameter("bits").data = torch.tensor([2.0, 7.0])
    expected = observer(weight).detach()
    settled = observer.settled_weight(10 * weight)
    narrow, wide = observer.calculate_qparams().scale
    assert settled is not None
    assert settled[:3].min() >= -2 * narrow
    assert settled[:3].max() <= narrow
    assert settled[3:].abs().max() > 2 * wide
    settled = observer.settled_weight(weight)
    assert settled is not None
    assert observer.settle()
    assert not observer.settle()
    assert (observer.spec.qmin, observer.spec.qmax) == (-64, 63)
    torch.testing.assert_close(observer(settled), expected)  # as it was before both had the codes of the wider one


def test_signs_settle_into_two_values_and_statistics_into_nothing() -> None:
    weight = torch.randn(6, 4)
    sign, statistics = SIGN.build("site"), TensorSpec(4).build("site")
    for observer in (sign, statistics):
        observer(weight)
    settled = sign.settled_weight(weight)
    assert settled is not None
    assert settled.unique().numel() == 2
    assert settled.sign().equal(weight.sign())
    assert sign.settled_weight(settled) is None
    assert statistics.settled_weight(weight) is None
    assert [o.settle() for o in (sign, statistics)] == [False, False]


def test_only_bits_that_are_learned_are_held() -> None:
    spec = TensorSpec(4, signed=True, symmetric=True, observer=LearnedStep(learned_bits=True))
    observer, x = spec.build("site"), torch.randn(8, 4)
    observer(x).square().sum().backward()
    scale, bits = observer.get_parameter("scale"), observer.get_parameter("bits")
    assert bits.grad is not None
    observer.hold_bits()
    assert bits.grad is None
    assert scale.grad is not None
    for parameter in (scale, bits):
        parameter.data.fill_(-100.0)
    observer.keep_in_range()
    assert float(scale.detach().min()) > 0
    assert float(bits.detach()) == 2
    statistics = TensorSpec(4).build("site")
    statistics(x)
    before = [t.clone() for t in statistics.buffers()]
    statistics.hold_bits()
    statistics.keep_in_range()
    assert all(t.equal(b) for t, b in zip(statistics.buffers(), before, strict=True))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("signed", "narrow"), [(False, False), (True, False), (True, True)])
def test_bits_are_counted_by_the_codes(bits: int, signed: bool, narrow: bool) -> None:
    assert TensorSpec(bits, signed=signed, narrow=narrow).build("site").initial_bits == bits
