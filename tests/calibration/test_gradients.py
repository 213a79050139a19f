"""Gradients at the outputs of products are those of autograd, whatever the memory they are taken in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import CalibrationError, Gradient, LayerSpec, Metric, PerHead, QuantConfig, ScaleSearch, TensorSpec
from fxquant.calibration.gradients import Gradients, Sensitivity
from fxquant.calibration.sample import Sample
from fxquant.calibration.sites import Site, find_sites
from fxquant.graph.shapes import propagate_shapes
from tests.support.models import images, small_swin, small_vit

HEADS = TensorSpec(signed=True, symmetric=True, granularity=PerHead())
AMPLE = 2**30


def prepared_for(model: nn.Module, metric: Metric, x: Tensor) -> fx.GraphModule:
    layer = LayerSpec(query=HEADS, key=HEADS, value=HEADS, search=ScaleSearch(metric=metric))
    prepared = fxquant.prepare(model, QuantConfig(layer, attention=True))
    propagate_shapes(prepared, [x])
    return prepared


def taken(
    model: nn.Module,
    batches: Sequence[Tensor],
    metric: Metric = Metric.HESSIAN,
    budget: int = AMPLE,
    kind: Gradient = Gradient.SAMPLED_LABEL,
    max_rows: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, Sensitivity], dict[str, Sample]]:
    """Return what is known of each site, by its label, and the rows that it is of."""
    prepared = prepared_for(model, metric, batches[0])
    sites, count = find_sites(prepared, every=False), sum(len(x) for x in batches)
    generator = torch.Generator().manual_seed(5)
    samples: dict[Site, Sample] = {site: Sample.of(site, count, max_rows, generator) for site in sites}
    gradients = Gradients(prepared, [(x,) for x in batches], samples, kind, budget, seed, len(batches[0]))
    with torch.no_grad():
        found = {site.label: gradients.at(site) for site in sites}
    return found, {site.label: sample for site, sample in samples.items()}


def elements(sensitivity: Sensitivity) -> Tensor:
    assert sensitivity.elements is not None
    return sensitivity.elements


def loss_of(logits: Tensor, seed: int = 0) -> Tensor:
    """Return the loss of labels drawn from the prediction."""
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=torch.Generator().manual_seed(seed))
    return -logits.log_softmax(-1).gather(1, labels).sum()


def by_hooks(model: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return the gradients at the outputs of modules, found by autograd in the model itself."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: outputs.__setitem__(name, y))
        for name in names
    ]
    loss = loss_of(model(x))
    for hook in hooks:
        hook.remove()
    return dict(zip(names, torch.autograd.grad(loss, [outputs[name] for name in names]), strict=True))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (small_vit(), ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc1", "head"]),
        (small_swin(), ["layers.0.blocks.1.attn.qkv", "layers.1.downsample.reduction", "head.fc"]),
    ],
    ids=["vit", "swin"],
)
def test_linear_layers(model: nn.Module, names: list[str]) -> None:
    x = images(3)
    found, _ = taken(model, [x])
    for name, gradient in by_hooks(model, names, x).items():
        expected = gradient.movedim(1, -1) if name == "patch_embed.proj" else gradient
        flat = expected.reshape(1, 1, -1, expected.shape[-1])
        assert elements(found[name]).shape == flat.shape
        torch.testing.assert_close(elements(found[name]), flat, rtol=1e-3, atol=1e-5 * float(flat.abs().max()))


class Attention(nn.Module):
    """Attention of one head group, spelled out, and a head on the mean token; q and k read one input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.kept: dict[str, Tensor] = {}

    def heads(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, H, N, D)."""
        return x.reshape(-1, 6, 2, 4).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = torch.matmul(self.heads(q), self.heads(k).transpose(-2, -1))
        context = torch.matmul(F.softmax(scores / 2, dim=-1), self.heads(v))
        self.kept = {"q": q, "k": k, "v": v, "qk": scores, "pv": context}
        y: Tensor = self.head(context.transpose(1, 2).flatten(2).mean(1))
        return y


def attention() -> Attention:
    torch.manual_seed(0)
    return Attention().eval()


def test_products_of_attention_and_layers_that_share_an_input() -> None:
    model, x = attention(), torch.randn(4, 6, 8)
    found, _ = taken(fxquant.trace(model), [x])
    loss = loss_of(model(x))
    expected = dict(zip(model.kept, torch.autograd.grad(loss, list(model.kept.values())), strict=True))
    assert len(found) == 4
    (joint,) = [value for label, value in found.items() if "," in label]
    stacked = torch.cat([expected[name].flatten(0, 1) for name in "qkv"], -1)[None, None]
    torch.testing.assert_close(elements(joint), stacked, rtol=1e-4, atol=1e-7)
    for name in ("qk", "pv"):
        (own,) = [value for label, value in found.items() if label.endswith(name)]
        torch.testing.assert_close(elements(own), expected[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 10, 16, 100, 1000])
def test_labels_do_not_depend_on_how_images_are_split(classes: int) -> None:
    p = torch.rand(7, classes, generator=torch.Generator().manual_seed(2))
    whole, parts = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    expected = torch.multinomial(p, 1, generator=whole)
    assert torch.equal(torch.cat([torch.multinomial(part, 1, generator=parts) for part in p.split(2)]), expected)


def models() -> dict[str, tuple[nn.Module, list[Tensor]]]:
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))
    return {
        "vit": (small_vit(), [images(3, 0), images(3, 1), images(2, 2)]),
        "attention": (fxquant.trace(attention()), [x, x[:3] + 1]),
    }


each_model = pytest.mark.parametrize(("model", "batches"), models().values(), ids=list(models()))


@each_model
@pytest.mark.parametrize("metric", [Metric.HESSIAN, Metric.FISHER])
def test_the_budget_does_not_change_the_values(model: nn.Module, batches: list[Tensor], metric: Metric) -> None:
    """One site at a time, one image at a time: the same labels are drawn."""
    plenty, _ = taken(model, batches, metric)
    for budget in (1, 300_000):
        scarce, _ = taken(model, batches, metric, budget)
        for label, expected in plenty.items():
            for name in ("tokens", "channels", "elements"):
                one, two = getattr(expected, name), getattr(scarce[label], name)
                assert (one is None) == (two is None) == (name == "elements" and metric is Metric.FISHER)
                if one is not None:
                    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@each_model
def test_marginals_are_those_of_the_gradient(model: nn.Module, batches: list[Tensor]) -> None:
    """Where whole gradients are not kept."""
    whole, _ = taken(model, batches, Metric.HESSIAN)
    marginal, _ = taken(model, batches, Metric.FISHER)
    for label, expected in whole.items():
        assert marginal[label].elements is None
        squared = elements(expected).double() ** 2
        for name, dim in (("tokens", -1), ("channels", -2)):
            mean = squared.mean(dim)
            for found in (getattr(expected, name), getattr(marginal[label], name)):
                assert found.dtype is torch.float32
                torch.testing.assert_close(found.double(), mean / mean.mean(), rtol=1e-4, atol=1e-6)


@each_model
def test_samples_pick_the_rows_of_all_batches(model: nn.Module, batches: list[Tensor]) -> None:
    everything, _ = taken(model, batches)
    some, samples = taken(model, batches, max_rows=7)
    for label, found in some.items():
        index, whole = samples[label].index, elements(everything[label])
        if index is not None:
            whole = whole[index] if whole.shape[1] > 1 else whole[:, :, index]  # attention has heads
        torch.testing.assert_close(elements(found), whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


def test_seeds() -> None:
    model, x = small_vit(), images(6)
    one, same, other = (elements(taken(model, [x], seed=seed)[0]["head"]) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # Of -log p[y] at the logits the gradient is p - onehot(y).
    prediction = model(x).detach().softmax(-1)
    labels = (prediction - one[0, 0]).round().argmax(-1)
    torch.testing.assert_close(one[0, 0], prediction - F.one_hot(labels, 10), rtol=1e-3, atol=1e-5)


def test_the_published_gradient_is_rounding_noise() -> None:
    model, x = small_vit(), images(4)
    found, _ = taken(model, [x], kind=Gradient.PREDICTION)
    real, _ = taken(model, [x])
    for label, noise in found.items():
        assert bool(torch.isfinite(elements(noise)).all())
        assert elements(noise).abs().max() < 1e-5 * elements(real[label]).abs().max()


def test_nothing_of_the_model_is_touched() -> None:
    model = small_vit()
    prepared = prepared_for(model, Metric.FISHER, images(2))
    before = {name: t.clone() for name, t in prepared.state_dict().items()}
    sites = find_sites(prepared, every=False)
    samples = {site: Sample.of(site, 2, None, torch.Generator()) for site in sites}
    Gradients(prepared, [(images(2),)], samples, Gradient.SAMPLED_LABEL, AMPLE, 0, 2).at(sites[0])
    assert all(torch.equal(t, before[name]) for name, t in prepared.state_dict().items())
    assert all(p.grad is None for p in prepared.parameters())


def test_inference_mode_and_frozen_parameters() -> None:
    model, x = small_vit(), images(2)
    expected = elements(taken(model, [x])[0]["blocks.0.attn.qkv"])
    with torch.inference_mode():
        found = elements(taken(model.requires_grad_(False), [x.clone()])[0]["blocks.0.attn.qkv"])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{"num_classes": 0, "global_pool": ""}, {"num_classes": 0}])
def test_a_model_that_is_no_classifier(options: dict[str, Any]) -> None:
    model = small_vit(**options)
    assert taken(model, [images(2)], kind=Gradient.SAMPLED_OUTPUT)


@pytest.mark.parametrize("kind", [Gradient.PREDICTION, Gradient.SAMPLED_LABEL])
def test_gradients_that_need_a_classifier(kind: Gradient) -> None:
    model = small_vit(num_classes=0, global_pool="")
    message = f"Gradient.{kind.name} needs a classifier: expected logits (B, classes), found shape (2, 17, 32)"
    with pytest.raises(CalibrationError, match=re.escape(message)):
        taken(model, [images(2)], kind=kind)


def test_samples_of_the_output_do_not_depend_on_batches() -> None:
    model, x = small_vit(), images(6)
    one, _ = taken(model, [x], kind=Gradient.SAMPLED_OUTPUT)
    two, _ = taken(model, list(x.split(4)), kind=Gradient.SAMPLED_OUTPUT)
    for label, found in one.items():
        torch.testing.assert_close(elements(found), elements(two[label]), rtol=1e-4, atol=1e-6)
    # At the logits it is the sample's distance from the mean: standard normal, the same draws for any model.
    drawn = torch.Generator().manual_seed(0)
    assert torch.equal(elements(one["head"])[0, 0], torch.stack([torch.randn(10, generator=drawn) for _ in x]))
