"""What each part of a model costs: against brute force, and as `fxquant.convert` makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

import fxquant
from fxquant import ConfigError, InputError, UnsupportedGraphError
from fxquant.graph.attributes import called_module
from fxquant.observers.base import Observer
from fxquant.precision.estimated_error import estimated_energies
from fxquant.precision.operand_groups import observed
from fxquant.precision.run_outputs import read_batches
from tests.support.models import images, small_vit

BATCHES = [images(4), images(4, seed=1)]
BAD = "blocks.1.mlp.fc1"


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    return fxquant.trace(small_vit(), images())


@pytest.fixture(scope="module")
def prepared(traced: fx.GraphModule) -> fx.GraphModule:
    """Return a graph at 8 bits, of which the input of one layer has 3."""
    config = fxquant.recipe("minmax").set_module_name(BAD, fxquant.recipe("minmax", 8, 3).layer)
    return fxquant.calibrate(fxquant.prepare(traced, config), BATCHES, progress=False)


def relative(gm: fx.GraphModule, traced: fx.GraphModule) -> float:
    x, y = (torch.cat([f(b) for b in BATCHES]).detach().double() for f in (traced, gm))
    return float((x - y).norm() / x.norm())


def brute_force(prepared: fx.GraphModule, traced: fx.GraphModule, chosen: str, alone: bool) -> float:
    """Return the error with the operand `chosen` quantised alone, or float alone, by plain replacement of its observer."""

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            observer = called_module(n)
            if not isinstance(observer, Observer):
                return super().run_node(n)
            x: Tensor = self.env[n.args[0]]  # type: ignore[index, assignment]
            return (
                observer.fake_quantize(x, observer.calculate_qparams()) if (observer.operand == chosen) == alone else x
            )

    return relative(lambda b: Run(prepared).run(b), traced)  # type: ignore[arg-type]


def test_the_figures_are_those_of_brute_force(prepared: fx.GraphModule, traced: fx.GraphModule) -> None:
    found = fxquant.sensitivity(prepared, BATCHES, exact=3, joint=2, progress=False)
    assert found.records[0].name == f"{BAD}.input", "the input with few bits is the worst"
    assert found.error == pytest.approx(relative(fxquant.convert(prepared, "fake"), traced), rel=1e-5)
    measured = [record for record in found if record.alone is not None]
    assert len(measured) == 3
    for record in measured:
        assert record.alone == pytest.approx(brute_force(prepared, traced, record.name, alone=True), rel=1e-4)
        left = brute_force(prepared, traced, record.name, alone=False)
        assert found.error - (record.saves or 0) == pytest.approx(left, rel=1e-4)
    assert [each.names for each in found.joint] == [tuple(r.name for r in found.records[:n]) for n in (1, 2)]
    assert found.joint[0].error == pytest.approx(found.error - (found.records[0].saves or 0), rel=1e-6)


def test_the_estimates_are_close_to_what_is_measured(prepared: fx.GraphModule) -> None:
    found = fxquant.sensitivity(prepared, BATCHES, exact=None, joint=0, probes=32, progress=False)
    assert all(record.alone for record in found)
    ratios = torch.tensor([record.estimate / (record.alone or 1) for record in found])
    assert 0.8 < float(ratios.median()) < 1.25
    by_estimate = sorted(found, key=lambda record: -record.estimate)
    few = len(found) // 3
    assert len({r.name for r in by_estimate[:few]} & {r.name for r in found.records[:few]}) >= few - 1


def test_a_model_of_bfloat16_whose_weights_are_fitted_is_measured() -> None:
    layer, x = torch.nn.Linear(16, 4).eval().bfloat16(), torch.randn(64, 16)
    found = fxquant.sensitivity(layer, [x], fxquant.recipe("default", 4, 8), progress=False)
    assert 0 < found.error < 0.3


def test_of_a_linear_model_the_estimate_is_unbiased() -> None:
    layer = torch.nn.Linear(16, 4).eval()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    prepared = fxquant.calibrate(fxquant.prepare(layer, fxquant.recipe("minmax", 8, 4), x), [x], progress=False)
    energies = {
        o.operand: e for o, e in estimated_energies(prepared, read_batches(prepared, [x]), 64, 0, False).items()
    }
    (observer,) = [o for _, o in observed(prepared) if o.operand.endswith("input")]
    error = observer.fake_quantize(x, observer.calculate_qparams()) - x
    assert energies[observer.operand] == pytest.approx(float((error @ layer.weight.detach().T).square().sum()), rel=0.1)


def test_the_same_part_of_all_blocks_is_switched_together(prepared: fx.GraphModule) -> None:
    found = fxquant.sensitivity(prepared, BATCHES[:1], by="kind", exact=1, joint=0, metric="cosine", progress=False)
    assert found.records[0].name == "blocks.*.mlp.fc1.input"
    assert found.records[0].codes == ("uint8 PerTensor()", "uint3 PerTensor()")
    assert found.float_score == pytest.approx(1)
    assert (found.score or 1) < (found.records[0].score or 0) < 1
    modules = fxquant.sensitivity(prepared, BATCHES[:1], by="module", exact=0, joint=0, progress=False)
    assert modules.records[0].name == BAD
    assert next(iter(modules.kinds())) == "blocks.*.mlp.fc1"


@pytest.mark.parametrize("recipe", ["ptq4vit", "noisyquant", "dynamic", "psaq", "repq"])
def test_everything_switched_on_is_what_convert_makes(recipe: str) -> None:
    model = small_vit(depth=1)
    config = fxquant.recipe(recipe, 4, 4)
    prepared = fxquant.calibrate(fxquant.prepare(model, config, BATCHES[0]), BATCHES, progress=False)
    found = fxquant.sensitivity(prepared, BATCHES, exact=0, joint=0, probes=1, progress=False)
    assert found.error == pytest.approx(relative(fxquant.convert(prepared, "fake"), model), rel=2e-3)  # type: ignore[arg-type]


def test_what_was_measured_is_kept_and_taken_up(prepared: fx.GraphModule, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    options = {"joint": 1, "probes": 1, "progress": False, "resume": file}
    fxquant.sensitivity(prepared, BATCHES, exact=1, **options)  # type: ignore[arg-type]
    kept = json.loads(file.read_text())
    kept["states"][f"alone: {BAD}.input"]["error"] = 0.5
    file.write_text(json.dumps(kept))
    again = fxquant.sensitivity(prepared, BATCHES, exact=2, **options)  # type: ignore[arg-type]
    assert again.records[0].alone == 0.5, "it was not measured again"
    assert len(json.loads(file.read_text())["states"]) > len(kept["states"])
    with pytest.raises(InputError, match="was written for another model, config, metric or other images"):
        fxquant.sensitivity(prepared, BATCHES[:1], **options)  # type: ignore[arg-type]
    file.write_text("{}")
    with pytest.raises(InputError, match="cannot read"):
        fxquant.sensitivity(prepared, BATCHES, **options)  # type: ignore[arg-type]


def test_it_prints_plots_and_turns_into_json(prepared: fx.GraphModule) -> None:
    pytest.importorskip("matplotlib")
    found = fxquant.sensitivity(prepared, BATCHES[:1], exact=1, joint=1, probes=1, progress=False)
    head, left, columns, *lines = str(found).splitlines()
    assert head.endswith("parts")
    assert left.startswith("with 1 float: 0.")
    assert columns.split() == ["part", "codes", "estimate", "alone", "saves", "score"]
    assert len(lines) == len(json.loads(json.dumps(found.to_dict()))["records"])
    assert found.plot(5).axes[0].get_legend() is not None


def test_what_cannot_be_measured_is_refused(traced: fx.GraphModule, prepared: fx.GraphModule) -> None:
    for options, message in (
        ({"by": "block"}, "by must be one of 'operand', 'module'"),
        ({"exact": -1}, "exact must be a"),
    ):
        with pytest.raises(ConfigError, match=message):
            fxquant.sensitivity(traced, BATCHES, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one batch"):
        fxquant.sensitivity(traced, [])
    with pytest.raises(ConfigError, match="has its config already"):
        fxquant.sensitivity(prepared, BATCHES, fxquant.recipe("minmax"))
    with pytest.raises(UnsupportedGraphError, match="or a calibrated graph"):
        fxquant.sensitivity(fxquant.convert(prepared, "fake"), BATCHES)
    with pytest.raises(UnsupportedGraphError, match="leaves all of it float"):
        fxquant.sensitivity(traced, BATCHES, fxquant.QuantConfig(None), progress=False)
    config = fxquant.recipe("fqvit")
    with pytest.raises(UnsupportedGraphError, match="a softmax on integers cannot be switched off alone"):
        fxquant.sensitivity(traced, BATCHES, config, progress=False)
