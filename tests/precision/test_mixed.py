"""A config under a budget: what is given to whom, and that what is promised is what the model then has."""

from __future__ import annotations

import json

import pytest
import torch
from torch import fx

import fxquant
from fxquant import ConfigError, InputError
from fxquant.graph.attributes import called_module
from fxquant.observers.base import Observer
from fxquant.precision.choose_options import Offer, path_of
from fxquant.precision.mixed import mixed
from fxquant.precision.part_options import Activations, PartOption, respecced
from fxquant.precision.parts import parts_of
from fxquant.precision.precision_budget import Cost, PrecisionBudget
from tests.support.models import images, small_vit

BATCHES = [images(6)]
BAD = "blocks.1.mlp.fc2"


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    return fxquant.trace(small_vit(), images())


def quantized(traced: fx.GraphModule, config: fxquant.QuantConfig, target: str = "int8") -> fx.GraphModule:
    prepared = fxquant.calibrate(fxquant.prepare(traced, config), BATCHES, progress=False)
    return fxquant.convert(prepared, target)  # type: ignore[arg-type]


def error_of(gm: fx.GraphModule, traced: fx.GraphModule) -> float:
    x, y = (torch.cat([f(b) for b in BATCHES]).detach().double() for f in (traced, gm))
    return float((x - y).norm() / x.norm())


def weight_bits(traced: fx.GraphModule, config: fxquant.QuantConfig) -> float:
    """Return the mean bits of all weights of the products that `config` gives, float ones as 32."""
    prepared = fxquant.prepare(traced, config)
    total = count = 0.0
    for node in prepared.graph.nodes:
        observer = called_module(node.args[1]) if len(node.args) > 1 else None
        if isinstance(observer, Observer) and observer.frozen:
            size = prepared.get_parameter(str(node.args[1].args[0].target)).numel()
            total, count = total + size * observer.initial_bits, count + size
    return total / count


def test_a_part_with_few_bits_is_repaired_and_little_else(traced: fx.GraphModule) -> None:
    config = fxquant.recipe("minmax").set_module_name(BAD, fxquant.recipe("minmax", 8, 3).layer)
    found = mixed(traced, BATCHES, "error=0.03,int8=0.9", config, points=0, probes=2, progress=False)
    assert found.met
    assert (
        error_of(quantized(traced, fxquant.recipe("minmax")), traced)
        < 0.03
        < error_of(quantized(traced, config), traced)
    )
    changed = [record.name for record in found if record.changed]
    assert BAD in changed
    assert len(changed) <= 2
    gm = quantized(traced, found.config)
    assert found.point.error == pytest.approx(error_of(gm, traced), rel=1e-3)
    assert 1 - found.point.costs[Cost.FLOAT_SHARE] == pytest.approx(fxquant.report(gm).coverage, abs=1e-6)


def test_mean_bits_and_size_are_those_of_the_config(traced: fx.GraphModule) -> None:
    found = mixed(
        traced, BATCHES, PrecisionBudget(mean_bits=5), fxquant.recipe("minmax"), points=2, probes=2, progress=False
    )
    spent = found.point.costs[Cost.MEAN_BITS]
    assert 4.5 < spent <= 5
    assert spent == pytest.approx(weight_bits(traced, found.config))
    assert len({record.option for record in found}) > 1, "parts differ"
    even = fxquant.recipe("minmax", 5, 8)
    assert found.point.error < 1.1 * error_of(quantized(traced, even, "fake"), traced)
    assert [p.costs[Cost.MEAN_BITS] for p in found.pareto] == sorted(p.costs[Cost.MEAN_BITS] for p in found.pareto)
    assert found.pareto[0].error > found.pareto[-1].error


def test_a_drop_is_one_of_the_metric_and_measured_on_the_images_given(traced: fx.GraphModule) -> None:
    labelled = [(images(8, seed=5), traced(images(8, seed=5)).argmax(-1))]
    options = {"metric": "top1", "evaluate": labelled, "points": 0, "probes": 2, "progress": False}
    found = mixed(traced, BATCHES, "drop=0", fxquant.recipe("minmax", 4, 4), **options)  # type: ignore[arg-type]
    assert (found.float_score, found.point.score, found.met) == (100, 100, True)
    with pytest.raises(ConfigError, match="a budget of drop is one of a metric"):
        mixed(traced, BATCHES, "drop=1", progress=False)


@pytest.mark.long  # it compiles four times
def test_latency_is_measured_on_this_device(traced: fx.GraphModule) -> None:
    found = mixed(traced, BATCHES, "latency=1s", fxquant.recipe("minmax", 8, 8), points=0, progress=False)
    assert found.met
    assert 0 < found.point.costs[Cost.LATENCY] < 1
    assert found.seconds is not None
    assert found.seconds > 0


def test_products_of_attention_get_a_spec_of_their_own(traced: fx.GraphModule) -> None:
    config = fxquant.recipe("minmax", 8, 4, attention=True)
    found = mixed(traced, BATCHES, "error=0.02", config, points=0, probes=2, progress=False)
    assert {"blocks.0.attn", "blocks.0.attn.qkv"} <= {record.name for record in found}
    gm = quantized(traced, found.config)
    assert found.point.error == pytest.approx(error_of(gm, traced), rel=1e-2)
    named = {r.name: r for r in fxquant.report(gm)}
    for record in found:
        kinds = {o.dtype for r in named.values() if r.module == record.name for o in r.operands}
        assert ("uint4" in kinds) == (record.option in ("W8, as configured", "W8, per token")), record


def test_steps_are_those_that_gain_most_for_their_cost(traced: fx.GraphModule) -> None:
    prepared = fxquant.prepare(traced, fxquant.recipe("minmax"))
    one, two, *_ = parts_of(prepared, fxquant.recipe("minmax"))[0]

    def offer(energy: float, bits: float) -> Offer:
        return Offer(energy, dict.fromkeys(Cost, 0.0) | {Cost.MEAN_BITS: bits})

    low, middle, high = (PartOption(bits, Activations.AS_CONFIGURED) for bits in (2, 4, 8))
    offers = {
        one: {low: offer(8, 1), middle: offer(2, 2), high: offer(1, 4)},
        two: {low: offer(9, 1), middle: offer(6, 2), high: offer(0, 3)},
    }
    nothing = dict.fromkeys(Cost, 0.0)
    path = path_of(offers, nothing, PrecisionBudget(mean_bits=6), Cost.MEAN_BITS)
    assert path == [{one: low, two: low}, {one: middle, two: low}, {one: middle, two: high}]
    assert path_of(offers, nothing, PrecisionBudget(mean_bits=7), Cost.MEAN_BITS)[-1] == {one: high, two: high}
    assert path_of(offers, nothing, PrecisionBudget(error=1), Cost.MEAN_BITS)[0] == {one: low, two: low}, (
        "as configured"
    )
    with pytest.raises(ConfigError, match="cheapest options are beyond the budget: mean_bits 2 of 1"):
        path_of(offers, nothing, PrecisionBudget(mean_bits=1), Cost.MEAN_BITS)


def test_an_option_changes_what_it_names_and_nothing_else() -> None:
    layer = fxquant.recipe("ptq4vit", 6, 6).layer
    assert layer is not None
    assert respecced(layer, PartOption(6, Activations.AS_CONFIGURED)) == layer
    wide = respecced(layer, PartOption(4, Activations.INT8))
    assert wide is not None
    assert (wide.weight and wide.weight.bits, wide.activation and wide.activation.bits) == (4, 8)
    assert type(wide.gelu) is fxquant.TwinGELU
    tokens = respecced(layer, PartOption(6, Activations.PER_TOKEN))
    assert tokens is not None
    assert [str(s and s.granularity) for s in (tokens.activation, tokens.gelu)] == ["PerToken()", "PerToken()"]
    assert tokens.query == layer.query
    alone = respecced(layer, PartOption(6, Activations.FLOAT))
    assert alone is not None
    assert (alone.activation, alone.gelu, alone.weight) == (None, None, layer.weight)
    assert respecced(layer, PartOption(None, Activations.FLOAT)) is None


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("error=0.1, int8=0.9", PrecisionBudget(error=0.1, int8=0.9)),
        ("size=6MB", PrecisionBudget(size=6e6)),
        ("latency=20ms,drop=1", PrecisionBudget(latency=0.02, drop=1)),
    ],
)
def test_a_budget_is_read(text: str, budget: PrecisionBudget) -> None:
    read = PrecisionBudget.parse(text)
    assert read.limits == pytest.approx(budget.limits)
    assert (read.error, read.drop) == (budget.error, budget.drop)


def test_what_makes_no_sense_is_refused(traced: fx.GraphModule) -> None:
    for text in ("", "speed=3", "error", "error=a", "size=6TB"):
        with pytest.raises(ConfigError, match=r"expected a budget such as error=0\.1,int8=0\.9"):
            PrecisionBudget.parse(text)
    with pytest.raises(ConfigError, match="at least one of error, drop"):
        PrecisionBudget()
    with pytest.raises(ConfigError, match=r"PrecisionBudget\.int8 is a share"):
        PrecisionBudget(int8=90)
    with pytest.raises(InputError, match="at least one batch"):
        mixed(traced, [], "error=1")
    for options, message in (
        ({"cost": "watts"}, "cost must be one of mean_bits"),
        ({"activations": ["int4"]}, "activations must be among 'as configured'"),
        ({"weight_bits": [1]}, "weight_bits must be a whole number from 2 to 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            mixed(traced, BATCHES, "error=1", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="it takes no config with a placement or a trunk"):
        mixed(traced, BATCHES, "error=1", fxquant.recipe("psaq"), progress=False)


def test_it_prints_plots_and_turns_into_json(traced: fx.GraphModule) -> None:
    pytest.importorskip("matplotlib")
    config = fxquant.recipe("minmax", 4, 8)
    found = mixed(traced, BATCHES[:1], "error=0.0001,mean_bits=5", config, points=2, probes=1, progress=False)
    assert not found.met
    assert "budget NOT MET" in str(found).splitlines()[0]
    assert json.loads(json.dumps(found.to_dict()))["point"]["costs"]["size"] > 0
    assert found.plot().axes[0].get_xlabel() == "mean bits"
