"""Images that were prepared otherwise, and accuracy that is too low, are told; what is right is not."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.diagnosis.examined import Examined
from fxquant.diagnosis.preprocessing_check import check_preprocessing
from fxquant.diagnosis.published_top1 import TOP1
from fxquant.diagnosis.section import DoctorSection
from fxquant.precision.run_outputs import Shown

IMAGENET = fxquant.DataConfig((3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = IMAGENET.changed({"mean": 0.5, "std": 0.5})


class Brightness(nn.Module):
    """Tells dark from light images ``(B, 3, 8, 8)``, of which 0 is the middle."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack((-mean, mean), 1)


def pixels() -> tuple[Tensor, Tensor]:
    """Return images of 0 to 1, each with a black and a white pixel, and whether they are light."""
    images = torch.tensor([0.46, 0.55]).repeat(20)[:, None, None, None] + torch.zeros(1, 3, 8, 8)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0.0, 1.0
    return images, torch.tensor([0, 1]).repeat(20)


def checked(
    prepared: fxquant.DataConfig,
    said: fxquant.DataConfig | None,
    own: fxquant.DataConfig | None = None,
    expected: float | None = None,
    swapped: bool = False,
    scale: float = 1.0,
) -> DoctorSection:
    """Return the section for images `prepared` by one config that are `said` to be by another."""
    images, labels = pixels()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (prepared.mean, prepared.std))
    shown = Shown((scale * (images - mean) / std,), 1 - labels if swapped else labels)
    gm = fx.symbolic_trace(Brightness())
    return check_preprocessing(Examined(gm, None, False, (), [shown], own, said), expected)[0]


def test_images_of_another_normalisation_are_told() -> None:
    assert not checked(INCEPTION, INCEPTION, INCEPTION).warnings
    (told,) = checked(INCEPTION, IMAGENET, expected=100).warnings[:1]
    assert "pixels reach from 0.18 to 0.71" in told
    assert told.endswith("as with mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5)")
    (raw,) = (w for w in checked(INCEPTION, INCEPTION, scale=255.0).warnings if "pixels" in w)
    assert "they were prepared otherwise" in raw


def test_a_config_that_is_not_the_models_own_is_told() -> None:
    other = INCEPTION.changed({"crop_pct": 0.5})
    assert checked(INCEPTION, other, INCEPTION).warnings == (
        "images are prepared with crop_pct 0.5, the model's own config says 0.875",
    )
    size = INCEPTION.changed({"img_size": 64})
    assert checked(INCEPTION, size).warnings == ("images are (3, 8, 8), their config says (3, 64, 64)",)


def test_a_normalisation_that_puts_the_classes_right_is_told() -> None:
    section = checked(IMAGENET, IMAGENET)
    (told,) = (w for w in section.warnings if "pass --mean 0.5 0.5 0.5" in w)
    assert "and 100.0 % with mean (0.5, 0.5, 0.5)" in told
    assert section.figures["better"]["better_top1"] == 100


def test_accuracy_far_below_what_is_known_is_told() -> None:
    good = checked(INCEPTION, INCEPTION, expected=90.0)
    assert good.figures["top1_percent"] == 100
    assert not good.warnings
    assert good.lines[-1] == "quantised top-1 is 100.0 % on 40 images, expected 90.0 % give or take 14.2"
    (told, *_) = checked(INCEPTION, INCEPTION, expected=90.0, swapped=True).warnings
    assert told.startswith("quantised top-1 is 0.0 % on 40 images, expected 90.0 % give or take 14.2: check")
    (guess, *_) = checked(INCEPTION, INCEPTION, swapped=True).warnings
    assert "where guessing gives 50.0 %" in guess


def test_a_model_without_a_config_is_not_compared() -> None:
    section = checked(IMAGENET, None)
    assert section.lines[0] == "the model does not say how its images are prepared: give its data config"
    assert not [w for w in section.warnings if "pixels" in w]


@pytest.mark.parametrize("name", ["deit_small_patch16_224.fb_in1k", "swin_tiny_patch4_window7_224.ms_in1k"])
def test_usual_models_have_a_published_top1(name: str) -> None:
    assert 79 < TOP1[name] < 82
    assert TOP1.keys() <= set(timm.list_pretrained())
    assert all(70 < top1 < 90 for top1 in TOP1.values())
