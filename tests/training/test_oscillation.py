"""The oscillation of weights: what is found, and that what is frozen stays."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.errors import CheckpointError, ConfigError
from fxquant.graph.trained import weight_quantizers
from fxquant.training.oscillation import OscillationFreezer

MOMENTUM = 0.1


def prepared() -> fx.GraphModule:
    torch.manual_seed(0)
    gm = fxquant.prepare_qat(nn.Sequential(nn.Linear(8, 4)).eval(), fxquant.recipe("vvtq", 4, 4, trunk_bits=4))
    fxquant.calibrate(gm.eval(), [torch.randn(5, 8)], progress=False)
    return gm.train()


def codes(gm: fx.GraphModule) -> torch.Tensor:
    ((module, weight),) = weight_quantizers(gm)
    return (weight / module.scale).detach().clamp(-8, 7).round()


def slow_tracker(history: list[torch.Tensor]) -> torch.Tensor:
    """Return the frequency of each weight, one weight and one step at a time."""
    frequency = torch.zeros_like(history[0])
    for place in torch.cartesian_prod(*(torch.arange(n) for n in history[0].shape)).tolist():
        i, j = place
        last, direction, average = float(history[0][i, j]), 0.0, 0.0
        for step in history[1:]:
            now = float(step[i, j])
            moved = float(last > now) - float(last < now)
            average = MOMENTUM * float(moved * direction == -1) + (1 - MOMENTUM) * average
            direction = moved if moved else direction
            last = now
        frequency[i, j] = average
    return frequency


def test_frequencies_are_those_of_the_definition() -> None:
    gm = prepared()
    tracker = OscillationFreezer(gm, momentum=MOMENTUM)
    ((_, weight),) = weight_quantizers(gm)
    history = [codes(gm)]
    for _ in range(12):
        with torch.no_grad():
            weight.add_(0.05 * torch.randn_like(weight))
        tracker.step()
        history.append(codes(gm))
    state = tracker.state_dict()["0"]
    assert torch.allclose(state["frequency"], slow_tracker(history), atol=1e-6)
    assert tracker.share.oscillating == pytest.approx(float((state["frequency"] > 0.005).float().mean()))
    assert tracker.share.frozen == 0


def test_a_frozen_weight_keeps_its_code_whatever_happens() -> None:
    gm = prepared()
    freezer = OscillationFreezer(gm, threshold=0.15, momentum=MOMENTUM)
    ((module, weight),) = weight_quantizers(gm)
    low = codes(gm)[0, 0].clamp(-6, 5)
    for step in range(6):
        with torch.no_grad():
            weight[0, 0] = (low + step % 2) * module.scale
        freezer.step()
    assert freezer.share.frozen == pytest.approx(1 / weight.numel())
    kept = codes(gm)[0, 0].clone()
    assert kept in (low, low + 1)
    for _ in range(5):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight) * 0.2)
            module.scale.mul_(1.1)
        freezer.step()
        assert codes(gm)[0, 0] == kept
        assert weight[0, 0].item() == pytest.approx(float(kept * module.scale))
    assert not torch.equal(codes(gm)[1], torch.full((8,), float(kept)))


def test_state_goes_on_where_it_was() -> None:
    one, other = prepared(), prepared()
    first, second = (OscillationFreezer(gm, 0.1, MOMENTUM) for gm in (one, other))
    for index in range(8):
        torch.manual_seed(index)
        change = 0.1 * torch.randn(4, 8)
        for gm, freezer in ((one, first), (other, second)):
            ((_, weight),) = weight_quantizers(gm)
            with torch.no_grad():
                weight.add_(change)
            freezer.step()
        if index == 3:
            fresh = OscillationFreezer(other, 0.1, MOMENTUM)
            fresh.load_state_dict(second.state_dict())
            second = fresh
    assert torch.equal(one.get_parameter("0.weight"), other.get_parameter("0.weight"))
    assert first.share == second.share


def test_what_cannot_be_is_refused() -> None:
    gm = prepared()
    with pytest.raises(ConfigError, match="momentum"):
        OscillationFreezer(gm, momentum=0)
    with pytest.raises(CheckpointError, match="1 weights, found 0"):
        OscillationFreezer(gm).load_state_dict({})
