"""The last batch is observed through the integer softmax, as FQ-ViT calibrates; everything else is a plain run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import CalibrationError, ConfigError, PerHead, QuantConfig, TensorSpec
from fxquant.calibration import run_batches
from fxquant.calibration.integer_softmax import has_integer_softmax
from fxquant.config.placement import Placement
from fxquant.numerics.arithmetic import dequantize_log2, log_int_softmax
from fxquant.observers import Observer
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.observers.operand_spec import OperandSpec
from tests.support.models import images, small_swin, small_vit

U8, HEADS = TensorSpec(), TensorSpec(granularity=PerHead())


class Attention(nn.Module):
    """Attention among ``(B, 2, N, 12)``, open, with a bias where there is one."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, -1)
        scores = q @ k.mT * 0.5
        if self.bias is not None:
            scores = scores + self.bias
        return F.softmax(scores, -1) @ v

    def probabilities(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = x.chunk(3, -1)
        scores = q @ k.mT * 0.5
        return scores, scores if self.bias is None else scores + self.bias, v


def tokens(seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(3, 2, 6, 12, generator=torch.Generator().manual_seed(seed)) * spread


def prepared_for(model: nn.Module, probabilities: OperandSpec | None, **specs: Any) -> fx.GraphModule:
    placement = Placement(**({"scores": U8, "context": U8} | specs), probabilities=probabilities)
    return fxquant.prepare(model.eval(), QuantConfig(placement=placement))


def observers(prepared: fx.GraphModule) -> dict[str, Observer]:
    return {m.operand: m for m in prepared.modules() if isinstance(m, Observer)}


def plain(prepared: fx.GraphModule, *batches: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
    return prepared


def state(prepared: fx.GraphModule, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    return {name: value for name, value in prepared.state_dict().items() if not any(w in name for w in without)}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scores", [U8, HEADS], ids=["one scale", "a scale per head"])
@pytest.mark.parametrize("batches", [1, 3])
def test_the_last_batch_is_seen_through_the_integer_softmax(batches: int, scores: TensorSpec, bias: bool) -> None:
    model, data = Attention(bias), [tokens(seed, 1 + seed) for seed in range(batches)]
    specs = {"scores": scores, "biased_scores": scores if bias else None}
    prepared = prepared_for(model, LogIntSoftmax(), **specs)
    fxquant.calibrate(prepared, data, progress=False)
    found = observers(prepared)
    assert all(int(o.batches) == batches for o in found.values())
    ranges = []
    for batch in data:
        _, after, values = model.probabilities(batch)
        ranges.append((after.softmax(-1) @ values).detach())
    # the scale that the scores have once this batch, too, has been seen
    scale = found["model.biased_scores" if bias else "model.scores"].calculate_qparams().scale
    ranges[-1] = (dequantize_log2(log_int_softmax(after, scale, 15)) @ values).detach()
    minimum, maximum = found["model.context"].range()
    assert minimum.item() == pytest.approx(min(float(r.min()) for r in ranges), rel=1e-5)
    assert maximum.item() == pytest.approx(max(float(r.max()) for r in ranges), rel=1e-5)
    low, high = found["model.scores"].range()
    assert float(low.min()) == min(float(model.probabilities(b)[0].min()) for b in data)
    assert float(high.max()) == max(float(model.probabilities(b)[0].max()) for b in data)


def test_a_plain_loop_sees_the_float_softmax() -> None:
    data = [tokens(0), tokens(1)]
    looped = plain(prepared_for(Attention(), LogIntSoftmax()), *data)
    calibrated = fxquant.calibrate(prepared_for(Attention(), LogIntSoftmax()), data, progress=False)
    assert_equal(state(calibrated, ("context", "probabilities")), state(looped, ("context", "probabilities")))
    for value in ("model.context", "model.probabilities"):
        ranges = [observers(gm)[value].range() for gm in (looped, calibrated)]
        assert not torch.equal(torch.cat(ranges[0]), torch.cat(ranges[1]))


@pytest.mark.parametrize("softmax", ["uniform", "log2", "log_int"])
def test_batches_before_the_last_are_plain(softmax: str) -> None:
    """What only the first batches decide is that of a loop; so is everything, where the softmax is no integer one."""
    config = fxquant.recipe("fqvit", softmax=softmax)
    data, prepared = [images(2, seed) for seed in range(3)], fxquant.prepare(small_vit(depth=1), config)
    looped = plain(copy.deepcopy(prepared), *data[:2])
    calibrated = copy.deepcopy(looped)
    assert has_integer_softmax(calibrated) is (softmax == "log_int")
    plain(looped, data[2])
    fxquant.calibrate(calibrated, [data[2]], progress=False)
    fresh = fxquant.calibrate(prepared, data, progress=False)
    assert_equal(state(fresh), state(calibrated))
    same = [torch.equal(value, state(looped)[name]) for name, value in state(fresh).items()]
    assert all(same) is (softmax != "log_int")


def test_the_graph_stays_as_it_is() -> None:
    prepared = prepared_for(Attention(bias=True), LogIntSoftmax(), biased_scores=U8)
    code, nodes = prepared.code, len(prepared.graph.nodes)
    fxquant.calibrate(prepared, [tokens(0)], progress=False)
    assert (prepared.code, len(prepared.graph.nodes)) == (code, nodes)
    with torch.no_grad():
        assert torch.equal(prepared(tokens(1)), Attention(bias=True)(tokens(1)))


@pytest.mark.parametrize("make", [small_vit, small_swin])
def test_every_softmax_of_a_model_is_an_integer_one(make: Any) -> None:
    prepared = fxquant.prepare(make(), fxquant.recipe("fqvit", per_head=True))
    fxquant.calibrate(prepared, [images(2)], progress=False)
    seen = [o for name, o in observers(prepared).items() if name.endswith("probabilities")]
    assert len(seen) == sum(n.target is F.softmax for n in prepared.graph.nodes)
    for observer in seen:
        for end in observer.range():
            assert end.item() == 0 or end.log2().item() == round(end.log2().item())


def test_models_without_it_run_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("expected a plain run")

    monkeypatch.setattr(run_batches, "RunIntegerSoftmax", refuse)
    for probabilities in (None, U8, Log2()):
        prepared = prepared_for(Attention(), probabilities)
        assert not has_integer_softmax(prepared)
        looped = copy.deepcopy(prepared)
        fxquant.calibrate(prepared, [tokens(0), tokens(1)], progress=False)
        assert_equal(state(prepared), state(plain(looped, tokens(0), tokens(1))))


def test_even_attention_has_powers_of_two_all_the_same() -> None:
    """With one batch of small scores every probability is one power of two, which needs no scale."""
    prepared = prepared_for(Attention(), LogIntSoftmax())
    fxquant.calibrate(prepared, [tokens(0, 0.01)], progress=False)
    minimum, maximum = observers(prepared)["model.probabilities"].range()
    assert minimum.item() == maximum.item() == 0.125  # of 6, rounded up to 8
    assert torch.isfinite(fxquant.convert(prepared)(tokens(1, 0.01))).all()


def test_scores_that_were_not_observed_are_left_to_convert() -> None:
    prepared = prepared_for(Attention(), LogIntSoftmax(), scores=None, biased_scores=U8)
    fxquant.calibrate(prepared, [tokens(0)], progress=False)
    with pytest.raises(fxquant.ConfigError, match=r"model\.probabilities.*expected quantised scores.* found mul"):
        fxquant.convert(prepared)


def test_a_batch_that_does_not_fit_is_named() -> None:
    prepared = prepared_for(Attention(bias=True), LogIntSoftmax(), biased_scores=U8)
    small, spoiled = tokens(0)[:, :, :4], tokens(0) * float("nan")
    for batches, expected in (
        ([small], "calibration batch 0: the model does not accept images of shape"),
        ([tokens(0), small], "input 'x', calibration batch 1: expected shape .* as in the first batch, found"),
        ([tokens(0), spoiled], "input 'x', calibration batch 1.*found NaN"),
    ):
        with pytest.raises(CalibrationError, match=expected) as caught:
            fxquant.calibrate(copy.deepcopy(prepared), batches, progress=False)
        assert "While executing" not in str(caught.value)


def test_no_batches_are_refused() -> None:
    with pytest.raises(CalibrationError, match="expected at least one calibration batch, found none"):
        fxquant.calibrate(prepared_for(Attention(), LogIntSoftmax()), [], progress=False)


@pytest.mark.parametrize("probabilities", [U8, LogIntSoftmax()], ids=["plain", "integer"])
def test_batches_may_share_a_buffer(probabilities: OperandSpec) -> None:
    """An iterator may fill one tensor again and again: what it held is observed."""
    data = [tokens(seed, 1 + seed) for seed in range(3)]

    def filling(order: list[int]) -> Any:
        buffer = torch.empty_like(data[0])
        for index in order:
            yield buffer.copy_(data[index])

    prepared = prepared_for(Attention(), probabilities)
    expected = fxquant.calibrate(copy.deepcopy(prepared), [data[2], data[0], data[1]], progress=False)
    assert_equal(state(fxquant.calibrate(prepared, filling([2, 0, 1]), progress=False)), state(expected))


def test_scores_that_are_too_coarse_are_refused() -> None:
    prepared = prepared_for(Attention(), LogIntSoftmax(), scores=TensorSpec(2))
    with pytest.raises(ConfigError, match=r"LogIntSoftmax needs one of at most 1\.67: use more bits"):
        fxquant.calibrate(prepared, [tokens(0, 3.0)], progress=False)
