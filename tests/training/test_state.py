"""What changes while a model is trained, kept and taken up."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fxquant import CheckpointError
from fxquant.training import TrainingOptions
from fxquant.training.state import State, TrainingProgress, describe_quantisers
from tests.support.models import images
from tests.support.trained_models import prepared_vit, same_state


def make_state(drop_path: float = 0.0, learned_bits: bool = False, **options: Any) -> State:
    prepared = prepared_vit(drop_path, learned_bits=learned_bits)
    with torch.no_grad():
        prepared.eval()(images())
    return State(prepared.train(), TrainingOptions(**options))


def step(state: State, epoch: int = 0) -> None:
    state.optimizer.zero_grad()
    torch.autograd.backward(state.prepared(images()).square().mean())
    state.update(epoch)


def test_a_copy_goes_on_as_the_original_does() -> None:
    options: dict[str, Any] = {"ema_decay": 0.5, "freeze_threshold": 0.1}
    one, other = make_state(**options), make_state(**options)
    step(one)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    step(one)
    step(other)
    assert same_state(one.prepared, other.prepared)
    assert one.averaged is not None
    assert other.averaged is not None
    assert same_state(one.averaged, other.averaged)
    assert not same_state(one.prepared, one.averaged)
    assert not one.averaged.training
    assert one.freezer is not None
    assert other.freezer is not None
    assert one.freezer.share == other.freezer.share


def test_bit_widths_are_learned_for_a_part_of_the_epochs() -> None:
    state = make_state(learned_bits=True, epochs=10, bits_ratio=0.5, lr=0.1)

    def bits() -> torch.Tensor:
        return torch.cat([p.detach().clone() for n, p in state.prepared.named_parameters() if n.endswith(".bits")])

    start = bits()
    step(state, epoch=4)
    learned = bits()
    step(state, epoch=5)
    assert not torch.equal(start, learned)
    assert torch.equal(learned, bits())


def test_steps_that_the_optimiser_took_below_zero_come_back() -> None:
    state = make_state(lr=100.0)
    step(state)
    scales = [p for n, p in state.prepared.named_parameters() if n.endswith(".scale")]
    assert scales
    assert all(float(scale.detach().min()) > 0 for scale in scales)


def test_the_state_of_another_model_is_refused() -> None:
    saved = make_state().state_dict()
    del saved["model"]["head.weight"]
    with pytest.raises(CheckpointError, match=r"does not fit this model: .*head\.weight"):
        make_state().load_state_dict(saved)
    saved = make_state().state_dict() | {"progress": {"index": 1, "more": 2}}
    with pytest.raises(CheckpointError, match=r"does not fit this training: .*more"):
        make_state().load_state_dict(saved)


def test_progress_tells_the_best_pass() -> None:
    progress = TrainingProgress()
    assert progress.best is None
    assert not progress.last_is_best
    for accuracy, best in ((50.0, True), (70.0, True), (60.0, False), (70.0, False)):
        progress.add({"loss": 1.0}, 0.5)
        progress.add({"loss": 3.0}, 0.5)
        assert (progress.step, progress.seconds, progress.sums) == (2, 1.0, {"loss": 4.0})
        progress.finish_pass({"best_of": accuracy})
        assert progress.last_is_best is best
    assert (progress.index, progress.step, progress.sums) == (4, 0, {})


def test_quantisers_are_told_by_their_bits() -> None:
    assert "of 4 bits" in describe_quantisers(prepared_vit())
    assert "of 3 bits" in describe_quantisers(prepared_vit(w_bits=3))
    assert "of 1 bit," in describe_quantisers(prepared_vit(w_bits=1))


def test_quantisers_are_told_by_all_of_their_options() -> None:
    assert describe_quantisers(prepared_vit()) == describe_quantisers(prepared_vit())
    others = ({"learned_bits": True}, {"head_wise": True}, {"gradient_scale": "lsq"}, {"train": False})
    found = [describe_quantisers(prepared_vit(**options)) for options in ({}, *others)]
    assert len(set(found)) == len(found)
