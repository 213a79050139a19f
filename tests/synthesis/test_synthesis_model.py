"""What synthesis reads of a model: size, normalisation, and what it says where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import ConfigError, InputError
from fxquant.synthesis.synthesis_model import Size, SynthesisModel, read_subject, resolve_size
from fxquant.synthesis.synthesis_options import SynthesisOptions
from tests.support.models import SIZE, images, small_vit
from tests.support.recorded_synthesis import recorded

OPTIONS = SynthesisOptions()


def read(model: nn.Module, size: Size = SIZE, options: SynthesisOptions = OPTIONS) -> SynthesisModel:
    return read_subject(model, 2, size, options)


def test_size_comes_from_the_caller_the_config_or_the_traced_images() -> None:
    model = small_vit()
    assert resolve_size(model, None) == (3, 224, 224)
    assert resolve_size(model, (32, 64)) == (3, 32, 64)
    assert resolve_size(model, (1, 32, 64)) == (1, 32, 64)
    gm = fxquant.trace(model, images(1))
    assert resolve_size(gm, None) == (3, SIZE, SIZE)
    with pytest.raises(InputError, match="give size="):
        resolve_size(fxquant.trace(model), None)
    for wrong in (0, (3,), (3, -3), "224"):
        with pytest.raises(ConfigError, match="size must be"):
            resolve_size(model, wrong)  # type: ignore[arg-type]


def test_a_size_that_the_model_does_not_take_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"224, 224\), which the model's data config names.*give size="):
        read(small_vit(), None)
    with pytest.raises(InputError, match="does not accept an input of shape"):
        read(small_vit(), 40)


def test_normalisation_of_the_model_of_the_caller_and_of_imagenet() -> None:
    model = small_vit()
    assert read(model).mean == (0.5, 0.5, 0.5)
    assert read(fxquant.trace(model)).mean == (0.485, 0.456, 0.406)
    given = SynthesisOptions(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    subject = read(model, options=given)
    low, high = subject.bounds(torch.device("cpu"))
    torch.testing.assert_close(low.flatten(), torch.tensor([-0.1, -0.1, -0.075]))
    torch.testing.assert_close(high.flatten(), torch.tensor([0.9, 0.4, 0.175]))


def test_bounds_clip_as_recorded() -> None:
    low, high = read(fxquant.trace(small_vit())).bounds(torch.device("cpu"))
    torch.testing.assert_close(recorded()["clip/in"].clamp(low, high), recorded()["clip/out"], rtol=1e-6, atol=1e-7)


def test_a_model_without_classes_is_refused() -> None:
    with pytest.raises(InputError, match="num_classes=0"):
        read(small_vit(num_classes=0))


def test_a_model_of_grey_images_has_one_channel_and_the_mean_of_the_published_ones() -> None:
    model = small_vit(in_chans=1)
    assert resolve_size(model, SIZE) == (1, SIZE, SIZE)
    assert read(model, SIZE).mean == (0.5,)
    with pytest.raises(ConfigError, match="1 channels need mean= and std="):
        read(model, SIZE, SynthesisOptions(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))


def test_graphs_of_another_number_of_channels_need_their_normalisation() -> None:
    model = fxquant.trace(small_vit(in_chans=1))
    with pytest.raises(ConfigError, match="1 channels need mean= and std="):
        read(model, (1, SIZE, SIZE))
    subject = read(model, (1, SIZE, SIZE), SynthesisOptions(mean=(0.5,), std=(0.25,)))
    assert subject.shape == (1, SIZE, SIZE)
    assert [bound.shape for bound in subject.bounds(torch.device("cpu"))] == [(1, 1, 1, 1)] * 2
