"""Outliers that change no function, and cost 8 bits their accuracy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from bench.standins.architectures import STANDINS, build_standin
from bench.standins.glyphs import Glyphs
from bench.standins.outliers import Outliers, inject_outliers
from fxquant.errors import ConfigError, InputError
from tests.bench.standins.models import same
from tests.support.tiers import keep_quick

NAMES = tuple(STANDINS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "outliers", [Outliers(), Outliers(norm=0, value=0), Outliers(hidden=0), Outliers(factor=(64, 64))]
)
def test_outliers_change_no_function(name: str, outliers: Outliers, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    before = [p.clone() for p in model.parameters()]
    injected = inject_outliers(model, outliers, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        expected, found = model(few.images[:16]), injected(few.images[:16])
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert same(injected, inject_outliers(model, outliers, seed=1))
    assert not same(injected, inject_outliers(model, outliers, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_outliers_stand_out_before_every_product_of_the_blocks(name: str, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    clean = _spreads(model, few.images)
    injected = _spreads(inject_outliers(model, Outliers(factor=(32, 32))), few.images)
    for product, spread in injected.items():
        assert spread > 4 * clean[product], product
    assert {product.rsplit(".", 1)[1] for product in injected} >= {"qkv", "proj", "fc1", "fc2"}


@pytest.mark.parametrize("name", keep_quick(["vit", "swin"], "vit"))
def test_outliers_cost_plain_eight_bit_quantisation_its_accuracy(name: str, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    clean, injected = (_error(m, few.images[:32]) for m in (model, inject_outliers(model)))
    assert clean < 0.1
    assert injected > 3 * clean


def test_outliers_need_blocks_channels_and_sense() -> None:
    with pytest.raises(InputError, match="found none in a Linear"):
        inject_outliers(nn.Linear(2, 2))
    with pytest.raises(InputError, match="at least 1000 channels"):
        inject_outliers(build_standin("vit"), Outliers(norm=1000))
    for wrong in ({"norm": -1}, {"factor": (0.0, 1.0)}, {"factor": (8.0, 4.0)}):
        with pytest.raises(ConfigError, match="must not be negative"):
            Outliers(**wrong)  # type: ignore[arg-type]


def _perturb(model: nn.Module) -> nn.Module:
    """Give every parameter, above all the biases and norms that start even, a random part."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return model


def _spreads(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure how far the widest channel stands out of the median one, at the input of each linear layer of a block."""
    spreads: dict[str, float] = {}

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        widest = inputs[0].flatten(0, -2).abs().amax(dim=0)  # (K,)
        spreads[name] = float(widest.max() / widest.median())

    linears = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and "head" not in n)
    hooks = [m.register_forward_pre_hook(lambda _, inputs, n=n: note(n, inputs)) for n, m in linears]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return spreads


def _error(model: nn.Module, images: Tensor) -> float:
    """Measure the relative error of the logits that naive W8A8 makes."""
    quantized = fxquant.quantize(model, [images], recipe="minmax", w_bits=8, a_bits=8, target="fake")
    with torch.no_grad():
        expected = model(images)
        return float((quantized(images) - expected).norm() / expected.norm())
