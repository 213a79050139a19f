"""Top-1, top-5 and agreement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.measurement.evaluation import evaluate, measure_agreement


def score(images: Tensor) -> Tensor:
    """Take the images ``(B, 6)`` as logits."""
    return images


def make_batches(*labels: int) -> list[tuple[Tensor, Tensor]]:
    """Make batches of three whose logits fall from class 0 to class 5."""
    falling = torch.arange(6, 0, -1.0).expand(3, 6)
    return [(falling, part) for part in torch.tensor(labels).view(-1, 3)]


def test_top1_and_top5_are_percentages_of_images() -> None:
    result = evaluate(score, make_batches(0, 0, 4, 5, 5, 1))
    assert result.top1 == 100 * 2 / 6
    assert result.top5 == 100 * 4 / 6
    assert result.predictions.tolist() == [0] * 6
    assert result.count == 6


def test_top5_of_five_classes_says_nothing() -> None:
    assert evaluate(lambda x: x[:, :5], make_batches(0, 1, 2)).top5 is None


def test_images_arrive_in_the_dtype_and_any_iterable_will_do() -> None:
    seen: list[torch.dtype] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images.dtype)
        return images

    evaluate(model, iter(make_batches(0, 0, 0)), dtype=torch.bfloat16)
    assert seen == [torch.bfloat16]


def test_agreement_compares_predictions_not_labels() -> None:
    one = evaluate(score, make_batches(5, 5, 5, 5, 5, 5))
    other = evaluate(lambda x: x * torch.tensor([[1.0], [1.0], [-1.0]]), make_batches(0, 0, 0, 0, 0, 0))
    assert measure_agreement(one, other) == pytest.approx(100 * 4 / 6)
    with pytest.raises(InputError, match="found 6 and 3"):
        measure_agreement(one, evaluate(score, make_batches(0, 0, 0)))


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(InputError, match="at least one batch"):
        evaluate(score, [])
    with pytest.raises(
        InputError, match=r"here, batch 0: expected logits \(B, classes\), the model gave a tensor \(3,\)"
    ):
        evaluate(lambda x: x[:, 0], make_batches(0, 0, 0), description="here")
    with pytest.raises(InputError, match="the model gave tuple"):
        evaluate(lambda x: (x, x), make_batches(0, 0, 0))
    with pytest.raises(InputError, match=r"here, batch 0: expected labels \(B,\) of classes next to .* NoneType"):
        evaluate(score, [torch.zeros(3, 6)], description="here")
    with pytest.raises(InputError, match="evaluate, batch 0: 'pixels' is no argument of function"):
        evaluate(score, [{"pixels": torch.zeros(3, 6)}])
    with pytest.raises(InputError, match="label 6 is not one of the model's 6 classes"):
        evaluate(score, make_batches(0, 6, 0))
    with pytest.raises(InputError, match="not finite"):
        evaluate(lambda x: x / 0, make_batches(0, 0, 0))
