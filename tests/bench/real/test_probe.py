"""The probe is a logistic regression on features of mean zero and deviation one, folded into one linear layer."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.real.glyph_images import LabelledImages
from bench.real.probe import REGULARISATION, fit_probe
from bench.real.proving import DEVELOPMENT, HELD_OUT, load_probe, measure
from tests.bench.real.needs import needs_real


def test_the_layer_is_the_regression() -> None:
    features = 5 + torch.randn(60, 4) * torch.tensor([0.1, 1.0, 10.0, 3.0])
    labels = features[:, 1:].argmax(dim=1)
    head = fit_probe(features, LabelledImages(torch.empty(0), labels))
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=1000))
    expected = regression.fit(features.numpy(), labels.numpy()).decision_function(features.numpy())
    found = features @ head["weight"].t() + head["bias"]
    torch.testing.assert_close(found.double(), torch.from_numpy(expected).double(), atol=0.02, rtol=0.02)


@pytest.mark.long
@needs_real
def test_splits_are_of_other_images() -> None:
    model, calibration, images, labels = load_probe(112, count=50)
    assert [batch.shape for batch in calibration] == [(8, 3, 112, 112)] * 4
    assert images.shape == (50, 3, 112, 112)
    error, found, expected = measure(model, model, images, labels)
    assert (error, found) == (0, expected)
    assert expected > 50
    _, others, more, _ = load_probe(112, HELD_OUT, count=50)
    assert DEVELOPMENT != HELD_OUT
    for one, two in ((torch.cat(calibration), torch.cat(others)), (images, more)):
        assert torch.cdist(one.flatten(1), two.flatten(1)).min() > 1
