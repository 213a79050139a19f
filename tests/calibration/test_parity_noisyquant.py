"""NoisyQuant: clipping scale, mean and range of single layers, and whole models, as the published code has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fxquant
from fxquant import Metric, Noise, NoisyBias, PerChannel, QuantConfig, TensorSpec
from fxquant.calibration import noise_search
from fxquant.calibration.problem import Problem
from fxquant.calibration.scales import search_scales
from fxquant.calibration.sides import Part, Side
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import record_of
from fxquant.observers.base import Observer, QParams
from tests.support.published import observer_of, recorded, recorded_model

LAYERS, MODEL = "noisyquant_layers", "noisyquant_model"
CASES = sorted({key.rpartition("/weight_q")[0] for key in recorded(LAYERS) if key.endswith("weight_q")})
WITH_RANGE = [
    case for case in CASES if not case.startswith("grid4d")
]  # there the published noise has one row per column
each_case = pytest.mark.parametrize("case", CASES)
each_bits = pytest.mark.parametrize("bits", [8, 6])


class Layer:
    """One recorded layer: its input as rows, and the problem of its scale and noise."""

    def __init__(self, case: str) -> None:
        name, bits = case.split("/b")
        self.case, self.bits = case, int(bits)
        self.x, self.weight, self.bias = (recorded(LAYERS)[f"{name}/{t}"] for t in ("x", "weight", "bias"))
        self.largest = 2 ** (self.bits - 1) - 1
        # Multiples of the initial scale, max / (2^(b-1) - 0.5), that are c = max k / 1000 over 2^(b-1) - 1.
        unit = (self.largest + 0.5) / self.largest / 1000
        rows, multipliers = self.x.flatten(0, -2), tuple(unit * k for k in range(1, 1001))
        spec = TensorSpec(self.bits, signed=True, symmetric=True)
        narrow = TensorSpec(self.bits, signed=True, symmetric=True, granularity=PerChannel(0), narrow=True)
        self.part = Part.of(observer_of(spec, rows), rows, multipliers, clip_evenly=True)
        self.weights = Part.of(observer_of(narrow, self.weight, weight=True), self.weight, multipliers)
        self.problem = Problem(Side([self.part]), Side([self.weights], weight=True), Metric.L2, whole=False)

    def __getitem__(self, tensor: str) -> Tensor:
        return recorded(LAYERS)[f"{self.case}/{tensor}"]

    def install_scale(self, mode: str = "clip") -> None:
        self.part.qparams = QParams(self[f"{mode}/s"], None, None)

    def loss(self, shift: Tensor | float) -> float:
        """Return the mean squared error of the outputs that the published code minimises."""
        change = self.part.quantize(self.part.qparams, self.part.values + shift) - shift
        error = self.problem.quadratic(self.problem.left)(change[None, None])
        return float(error.double().sum()) / (len(change) * len(self.weight))

    def output(self, shift: Tensor | float = 0.0) -> Tensor:
        """Return what the layer gives for the first two samples."""
        x = self.part.quantize(self.part.qparams, self.x[:2] + shift) - shift
        return F.linear(x, self.weights.quantize(self.weights.qparams), self.bias)


@each_case
def test_weights_are_exact(case: str) -> None:
    layer = Layer(case)
    torch.testing.assert_close(layer.weights.initial.scale, layer["weight_scale"], rtol=1e-6, atol=0)
    assert torch.equal(layer.weights.quantize(layer.weights.initial), layer["weight_q"])


@each_case
def test_largest_value(case: str) -> None:
    layer = Layer(case)
    search = fxquant.recipe("vanilla", layer.bits, layer.bits).layer.search  # type: ignore[union-attr]
    part = Part.of(layer.part.observer, layer.part.values, search.multipliers if search else ())
    torch.testing.assert_close(part.candidate(torch.tensor([0])).scale, layer["vanilla/s"], rtol=1e-6, atol=0)
    layer.install_scale("vanilla")
    torch.testing.assert_close(layer.output(), layer["vanilla/out"], rtol=1e-5, atol=1e-5)


@each_case
def test_clipping_scale(case: str) -> None:
    layer = Layer(case)
    search_scales(layer.problem, [layer.problem.left], 1, coarse=False)
    torch.testing.assert_close(layer.part.qparams.scale, layer["clip/s"], rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.output(), layer["clip/out"], rtol=1e-5, atol=1e-5)


@each_case
def test_mean(case: str) -> None:
    layer = Layer(case)
    layer.install_scale()
    scale, table = layer["clip/s"], layer["mean/loss"].double()
    found = torch.tensor([layer.loss(scale * k / 200) for k in range(-200, 200, 8)], dtype=torch.float64)
    torch.testing.assert_close(found, table[::8], rtol=1e-3, atol=0)
    options = NoisyBias(Noise.NORMAL, mean=True, range=False, mean_steps=200, coarse=False)
    shift = noise_search.search_noise(layer.problem, options, torch.Generator())
    torch.testing.assert_close(shift, layer["mean/m"].expand(shift.shape), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.output(shift), layer["mean/out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", WITH_RANGE)
@pytest.mark.parametrize("mode", ["range", "mean_range"])
def test_range(case: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(case)
    layer.install_scale()
    start = layer["mean/m"] if mode == "mean_range" else torch.zeros(())
    drawn, table = layer[f"{mode}/n_vec"].flatten(), layer[f"{mode}/loss"].double()
    found = torch.tensor([layer.loss(start + drawn * k / 1000) for k in range(0, 2000, 40)], dtype=torch.float64)
    torch.testing.assert_close(found, table[::40], rtol=1e-3, atol=0)
    monkeypatch.setattr(noise_search, "draw", lambda *_: layer[f"{mode}/gauss"].flatten() * 2 - 1)
    options = NoisyBias(Noise.NORMAL, mean=mode == "mean_range", mean_steps=200, range_steps=1000, coarse=False)
    shift = noise_search.search_noise(layer.problem, options, torch.Generator())
    torch.testing.assert_close(shift, layer[f"{mode}/N"].flatten(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.output(shift), layer[f"{mode}/out"], rtol=1e-5, atol=1e-5)


def calibrated(config: QuantConfig) -> fx.GraphModule:
    prepared = fxquant.prepare(recorded_model(MODEL), config)
    return fxquant.calibrate(prepared, [recorded(MODEL)["calib"].float()], progress=False)


def assert_published_logits(prepared: fx.GraphModule, key: str, tolerance: float) -> None:
    with torch.no_grad():
        logits = fxquant.convert(prepared, "fake")(recorded(MODEL)["eval"].float())
    expected = recorded(MODEL)[f"{key}/logits"]
    assert (logits - expected).norm() <= tolerance * expected.norm()


def inputs(prepared: fx.GraphModule) -> dict[str, Observer]:
    """Return the observer of each product's input by the product's name."""
    found: dict[str, Observer] = {}
    for node in prepared.graph.nodes:
        record = record_of(node)
        module = called_module(node.args[0]) if record else None
        if record is not None and isinstance(module, Observer):
            found[record.label] = module
    return found


@each_bits
def test_a_vanilla_model(bits: int) -> None:
    prepared = calibrated(fxquant.recipe("vanilla", bits, bits, patch_embed=False, head=False))
    for label, observer in inputs(prepared).items():
        assert (observer.spec.qmin, observer.spec.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        expected = recorded(MODEL)[f"vanilla/w{bits}a{bits}/{label}/s"]
        # A scale that is off in its last bit moves a code, and with it the largest value of a later layer.
        rtol = 1e-6 if label == "blocks.0.attn.qkv" else 1e-3
        torch.testing.assert_close(observer.calculate_qparams().scale, expected, rtol=rtol, atol=0)
        observer.refine(QParams(expected, None, None))
    assert_published_logits(prepared, f"vanilla/w{bits}a{bits}", 1e-5)


@each_bits
def test_the_first_layer_of_a_noisy_model(bits: int) -> None:
    whole = fxquant.recipe("noisyquant", bits, bits, published=True, mean=False, range=False)
    config = QuantConfig(None).set_module_name("blocks.0.attn.qkv", whole.layer)
    (observer,) = inputs(calibrated(config)).values()
    expected = recorded(MODEL)[f"noisyquant/w{bits}a{bits}/blocks.0.attn.qkv/s"]
    torch.testing.assert_close(observer.found_scale[0], expected, rtol=1e-5, atol=0)


@each_bits
def test_a_noisy_model_with_the_recorded_noise(bits: int) -> None:
    options: dict[str, Any] = {"published": True, "clip": False, "mean": False, "range": False}
    prepared, key = calibrated(fxquant.recipe("noisyquant", bits, bits, **options)), f"noisyquant/w{bits}a{bits}"
    found = inputs(prepared)
    assert {f"{key}/{label}/N" for label in found} == {
        n for n in recorded(MODEL) if n.startswith(key) and n[-2:] == "/N"
    }
    for label, observer in found.items():
        observer.refine(QParams(recorded(MODEL)[f"{key}/{label}/s"], None, None))
        observer.noise = recorded(MODEL)[f"{key}/{label}/N"].clone()
    assert_published_logits(prepared, key, 1e-3)
