"""A walk gives every product the operands that a plain run would, float or quantised, however little memory it has."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import CalibrationError, LayerSpec, PerHead, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax, pipeline
from fxquant.calibration.held_values import Values
from fxquant.calibration.sites import Site, find_sites
from fxquant.calibration.walk import Walk
from fxquant.graph.attributes import weight_of
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from tests.support.models import Shared, images, small_swin, small_vit
from tests.support.tiers import keep_quick

HEADS = TensorSpec(signed=True, symmetric=True, granularity=PerHead())
LAYER = LayerSpec(query=HEADS, key=HEADS, value=HEADS, softmax=TwinSoftmax(), gelu=TwinGELU())
CONFIG = QuantConfig(LAYER, attention=True)
MODELS: dict[str, Callable[[], nn.Module]] = {"vit": small_vit, "swin": small_swin}
few_models = pytest.mark.parametrize("model", keep_quick(MODELS, "vit"))
AMPLE = 2**30
Operands = dict[tuple[fx.Node, int, int], Tensor]


def prepared_for(model: nn.Module, config: QuantConfig = CONFIG) -> fx.GraphModule:
    return fxquant.prepare(model, config)


def walked(
    prepared: fx.GraphModule,
    batches: Sequence[Tensor],
    quantised: bool = False,
    budget: int = AMPLE,
    at: Callable[[Site], None] = lambda site: None,
) -> tuple[Operands, list[Tensor]]:
    """Walk over `batches`; return each product's operands and the results."""
    operands: Operands = {}

    def stop(site: Site, walk: Walk) -> None:
        assert walk.batches == len(batches)
        at(site)
        for batch in range(walk.batches):
            for position in (0, 1):
                argument = site.first.args[position]
                observed = site.observer(position)
                constant = observed is not None and observed.frozen
                value = weight_of(site.first) if constant else walk.operand(argument, batch)
                operands[site.first, position, batch] = value

    with Values(budget) as values, torch.no_grad():
        sites = find_sites(prepared, every=True)
        Walk(prepared, sites, values, quantised).over([(x,) for x in batches], stop)
        (output,) = [n for n in prepared.graph.nodes if n.op == "output"]
        results = [values.get(output.args[0], batch) for batch in range(len(batches))]
    return operands, results


def statistics(prepared: fx.GraphModule) -> dict[str, Tensor]:
    return {name: t for name, t in prepared.named_buffers() if name.startswith("observers.")}


def assert_same_statistics(one: fx.GraphModule, two: fx.GraphModule) -> None:
    first, second = statistics(one), statistics(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class Kept(fx.Interpreter):
    """Run a graph and keep the operands of its products."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.operands: Operands = {}

    def run_node(self, n: fx.Node) -> Any:
        record = record_of(n)
        if record is not None and any(o.spec for o in record.operands):
            args, _ = self.fetch_args_kwargs_from_env(n)
            self.operands |= {(n, position, 0): args[position] for position in (0, 1)}
        return super().run_node(n)


@few_models
def test_a_float_walk_is_a_plain_run(model: str) -> None:
    original = MODELS[model]()
    prepared, plain = prepared_for(original), prepared_for(original)
    batches = [images(2, seed) for seed in range(3)]
    operands, results = walked(prepared, batches)
    with torch.no_grad():
        for number, batch in enumerate(batches):
            kept = Kept(plain)
            assert torch.equal(results[number], kept.run(batch))
            pairs = zip(prepared.graph.nodes, plain.graph.nodes, strict=True)
            same = {two: one for one, two in pairs}
            for (node, position, _), value in kept.operands.items():
                if (same[node], position, number) in operands:  # one of the products that share an input stands for all
                    assert torch.equal(operands[same[node], position, number], value)
    assert_same_statistics(prepared, plain)
    sites = find_sites(prepared, every=True)
    assert {node for node, _, _ in operands} == {site.first for site in sites}


@few_models
def test_a_small_budget_gives_the_same(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    batches, original = [images(2, seed) for seed in range(2)], MODELS[model]()
    found = []
    for budget in (AMPLE, 100_000, 0):
        prepared = prepared_for(original)
        operands, results = walked(prepared, batches, quantised=True, budget=budget)
        found.append((list(operands.values()), results, prepared))
        assert not list(tmp_path.iterdir())
    for values, outputs, prepared in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(values, found[0][0], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(outputs, found[0][1], strict=True))
        assert_same_statistics(prepared, found[0][2])


def sources(fake: fx.GraphModule, x: Tensor) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
    """Return what each quantised operand of a simulated model is before it is quantised, and the result."""
    interpreter = fx.Interpreter(fake, garbage_collect_values=False)
    with torch.no_grad():
        result = interpreter.run(x)
    found: dict[tuple[str, int], Tensor] = {}
    for node in fake.graph.nodes:
        record = record_of(node)
        for position, operand in enumerate(record.operands if record else ()):
            source = node.args[position]
            for _ in range(2):
                source = source.args[0] if operand.spec is not None and source.args else source
            if record is not None and source.op != "get_attr":
                found[record.label, position] = interpreter.env[source]
    return found, result


@pytest.mark.parametrize(
    ("model", "dtype"),
    keep_quick(product(MODELS, [torch.float32, torch.bfloat16]), ("vit", torch.bfloat16), ("swin", torch.float32)),
)
def test_a_quantised_walk_is_the_simulated_model(model: str, dtype: torch.dtype) -> None:
    """
    On the one batch that it was calibrated on, as each product is quantised before the next one is reached.

    It rounds to bfloat16 as the float model does: without `keep_float32`, which convert runs last.
    """
    x = images(4).to(dtype)
    prepared = prepared_for(MODELS[model]().to(dtype))
    operands, (result,) = walked(prepared, [x], quantised=True)
    rounded = pipeline.run(copy.deepcopy(prepared), pipeline.CONVERT[:-1], Stage.QUANTISED)
    expected, simulated = sources(rounded, x)
    compared = 0
    for (node, position, _), value in operands.items():
        record = record_of(node)
        assert record is not None
        if (record.label, position) in expected:
            assert torch.equal(value, expected[record.label, position]), record.label
            compared += 1
    assert compared > 10
    assert torch.equal(result, simulated)
    assert result.dtype is dtype


def test_a_quantised_walk_adds_noise_and_corrects_biases() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False)).eval(), torch.randn(5, 6)
    prepared = prepared_for(model)

    def at(site: Site) -> None:
        one, weight = site.observer(0), site.observer(1)
        assert one is not None
        assert weight is not None
        generator = torch.Generator().manual_seed(len(site.label))
        outputs, inputs = weight_of(site.first).shape
        one.noise = torch.rand(inputs, generator=generator) * 0.1
        weight.bias_shift = torch.rand(outputs, generator=generator)

    _, (result,) = walked(prepared, [x], quantised=True, at=at)
    with torch.no_grad():
        simulated, plain = fxquant.convert(prepared, "fake")(x), model(x)
    torch.testing.assert_close(result, simulated, rtol=1e-5, atol=1e-5)
    assert (result - plain).abs().max() > 0.1, "the shift is there"


def test_a_quantised_walk_adds_noise_to_patches() -> None:
    model, x = nn.Conv2d(3, 4, 2, 2).eval(), torch.randn(2, 3, 6, 6)
    prepared = prepared_for(model)

    def at(site: Site) -> None:
        (observer,) = [site.observer(0)]
        assert observer is not None
        observer.noise = torch.rand(12) * 0.2

    _, (result,) = walked(prepared, [x], quantised=True, at=at)
    with torch.no_grad():
        torch.testing.assert_close(result, fxquant.convert(prepared, "fake")(x), rtol=1e-5, atol=1e-5)


def test_batches_in_order_reach_each_observer() -> None:
    """What depends on the order, such as a moving average, is as in a plain loop."""
    config, original = fxquant.recipe("ema"), small_vit()
    batches = [images(2, seed) * (seed + 1) for seed in range(3)]
    prepared, plain = prepared_for(original, config), prepared_for(original, config)
    walked(prepared, batches)
    with torch.no_grad():
        for batch in batches:
            plain(batch)
    assert_same_statistics(prepared, plain)


def test_batches_of_different_size() -> None:
    batches, original = [images(3, 0), images(1, 1)], small_vit()
    prepared, plain = prepared_for(original), prepared_for(original)
    _, results = walked(prepared, batches)
    with torch.no_grad():
        for batch, result in zip(batches, results, strict=True):
            assert torch.equal(plain(batch), result)
    assert_same_statistics(prepared, plain)


def test_a_module_used_twice_is_two_sites() -> None:
    prepared = prepared_for(Shared().eval())
    x = torch.randn(4, 8)
    operands, (result,) = walked(prepared, [x], quantised=True)
    assert len({node for node, _, _ in operands}) == 2
    with torch.no_grad():
        assert torch.equal(result, fxquant.convert(prepared, "fake")(x))


class Branches(nn.Module):
    """Two layers that read one value, one that reads its result as well, and a value used long after."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        kept = x.tanh()
        q, k = self.q(kept), self.k(kept)
        return self.out(q * k + kept) + kept


def test_layers_that_read_one_operand_are_one_site() -> None:
    model, x = Branches().eval(), torch.randn(3, 6)
    prepared = prepared_for(model)
    sites = find_sites(prepared, every=True)
    assert [site.label for site in sites] == ["q, k", "out"]
    for quantised in (False, True):
        _, (result,) = walked(prepared, [x], quantised, budget=0)
    with torch.no_grad():
        assert torch.equal(result, fxquant.convert(prepared, "fake")(x))


def test_only_what_is_still_read_is_kept() -> None:
    most: list[int] = []

    class Counting(Values):
        def put(self, node: fx.Node, batch: int, value: Any) -> None:
            super().put(node, batch, value)
            most.append(self.used)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(12)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    prepared, x = prepared_for(Deep().eval()), torch.randn(100, 64)
    with Counting(AMPLE) as values, torch.no_grad():
        Walk(prepared, find_sites(prepared, every=True), values, False).over([(x,), (x,)], lambda site, walk: None)
        assert max(most) <= 6 * x.numel() * 4


def test_a_batch_that_the_model_does_not_take_is_named() -> None:
    prepared = prepared_for(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).eval())
    with pytest.raises(CalibrationError, match="calibration batch 1"):
        walked(prepared, [torch.randn(2, 6), torch.randn(2, 5)])
    prepared = prepared_for(nn.Linear(6, 4).eval())
    with pytest.raises(CalibrationError, match="calibration batch 0: node 'linear' does not run"):
        walked(prepared, [torch.randn(2, 5)])
