"""Each node is measured against the float node that gives the same values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import InputError, QuantConfig
from fxquant.inspection.measure_nodes import measure_nodes
from tests.support.models import images, small_vit

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))  # type: ignore[no-any-return]


def stages(model: nn.Module, x: Tensor, config: QuantConfig) -> tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]:
    """Return the float, the prepared and the int8 graph."""
    traced = fxquant.trace(model.eval(), x)
    prepared = fxquant.calibrate(fxquant.prepare(traced, config), [x], progress=False)
    return traced, prepared, fxquant.convert(prepared)


def test_the_figures_are_those_of_the_values() -> None:
    traced, _, gm = stages(Mlp(), X, fxquant.recipe("minmax"))
    (*_, last) = measure_nodes(traced, gm, [X[:1], X[1:]]).values()
    x, y = traced(X).detach().double(), gm(X).detach().double()
    assert (last.node, last.reference) == ("int8_linear_add", "add")
    assert last.sqnr == pytest.approx(float(10 * torch.log10(x.square().sum() / (x - y).square().sum())))
    assert last.cosine == pytest.approx(float(F.cosine_similarity(x.flatten(), y.flatten(), dim=0)))
    assert last.max_error == pytest.approx(float((x - y).abs().max()))


def test_codes_are_compared_as_what_they_stand_for() -> None:
    traced, _, gm = stages(Mlp(), X, fxquant.recipe("minmax"))
    found = {m.reference: m for m in measure_nodes(traced, gm, [X]).values()}
    assert found.keys() == {"layer_norm", "gelu", "add"}
    assert all(25 < m.sqnr < 60 and m.cosine > 0.998 for m in found.values())


@pytest.mark.parametrize("recipe", ["dynamic", "noisyquant", "ptq4vit"])
def test_scales_per_token_noise_and_two_ranges_are_undone(recipe: str) -> None:
    _, prepared, gm = stages(Mlp(), X, fxquant.recipe(recipe))
    found = measure_nodes(prepared, gm, [X])
    assert len(found) >= 2
    assert all(m.sqnr > 20 for m in found.values()), found


def test_bits_show_where_they_are_missing() -> None:
    config = fxquant.recipe("minmax").set_module_name("blocks.1.mlp.fc2", fxquant.recipe("minmax", 3, 3).layer)
    traced, _, gm = stages(small_vit(), images(), config)
    found = {m.reference: m.sqnr for m in measure_nodes(traced, gm, [images()]).values()}
    adds = [sqnr for name, sqnr in found.items() if name.startswith("add")]
    assert min(adds[:-1]) - adds[-1] > 5


def test_heads_apart_are_compared_with_heads_in_tokens() -> None:
    traced, _, gm = stages(small_vit(), images(), fxquant.recipe("minmax"))
    assert "attention_quantize" in measure_nodes(traced, gm, [images()])


def test_a_graph_is_equal_to_itself_and_observers_see_nothing_of_it() -> None:
    traced, prepared, _ = stages(Mlp(), X, fxquant.recipe("minmax"))
    before = {name: t.clone() for name, t in prepared.state_dict().items()}
    found = measure_nodes(traced, prepared, [X * 100])
    assert all(m.sqnr == math.inf and m.cosine == pytest.approx(1) and m.max_error == 0 for m in found.values())
    assert all(torch.equal(t, before[name]) for name, t in prepared.state_dict().items())


def test_no_batch_is_refused() -> None:
    traced, _, gm = stages(Mlp(), X, fxquant.recipe("minmax"))
    with pytest.raises(InputError, match="expected at least one batch of images to measure on, found none"):
        measure_nodes(traced, gm, [])
