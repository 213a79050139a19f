"""
Quantisers that fxquant does not have, from their definition to a saved model.

`Roots` takes 51 lines here, blank ones included: a spec, its observer and two operators. `MeanRange`, which only finds the
range of a `TensorSpec` in another way, takes 23. One more line each registers them in the tables of quantisers. No file of
fxquant knows of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, fx

import fxquant
from fxquant import ConfigError, LayerSpec, Placement, QuantConfig, Role, ScaleSearch, TensorSpec
from fxquant.config.kinds import KINDS, OBSERVERS, Kind
from fxquant.config.operands import Value
from fxquant.graph.attributes import tensor_of
from fxquant.graph.meta import Operand, record_of
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.base import Observer, ObserverOptions, QParams
from fxquant.observers.ema import EMAObserver
from fxquant.observers.minmax import MinMaxObserver
from fxquant.observers.operand_spec import OperandSpec
from tests.support.models import images, small_vit

# --- the definition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roots(OperandSpec):
    """Probabilities as squares of `steps` even steps: small ones are told apart better than large ones."""

    steps: int = 15

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"root{self.steps}"

    @property
    def granularity(self) -> PerTensor:
        """One scale holds for the whole tensor."""
        return PerTensor()

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return self.steps

    def build(self, name: str) -> RootsObserver:
        """Return a fresh observer."""
        return RootsObserver(self, name)


class RootsObserver(MinMaxObserver):
    """Keep the largest probability; its root is the largest code."""

    def initial_qparams(self) -> QParams:
        """Return the size of a step."""
        return QParams(self.maximum[0].sqrt() / self.spec.qmax, None, None)

    def fake_quantize(self, x: Tensor, qparams: QParams) -> Tensor:
        """Return `x` as it will be after `convert`, float32."""
        return dequantize_roots(quantize_roots(x, qparams.scale, self.spec.qmax), qparams.scale)


def quantize_roots(x: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """Return the int8 codes of probabilities."""
    return (x.float().sqrt() / scale).round().clamp(0, qmax).to(torch.int8)


def dequantize_roots(codes: Tensor, scale: Tensor) -> Tensor:
    """Return what the codes stand for, float32."""
    return (codes * scale).square()


@dataclass(frozen=True)
class MeanRange(ObserverOptions):
    """The range reaches `factor` times the mean size of the values."""

    factor: float = 3.0

    def build(self, spec: Codes, name: str) -> Observer:
        """Return a fresh observer."""
        return MeanRangeObserver(spec, name, self.factor)


class MeanRangeObserver(EMAObserver):
    """Average that range over the batches."""

    def __init__(self, spec: Codes, operand: str, factor: float) -> None:
        super().__init__(spec, operand, sigma=0.1)
        self.factor = factor

    def batch_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ``(G,)`` ends for one batch."""
        self.checked_aminmax(rows)
        end = rows.float().abs().mean(dim=1) * self.factor
        return -end, end


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    OBSERVERS.append(MeanRange)
    monkeypatch.setitem(KINDS, Roots, Kind(quantize_roots, dequantize_roots, (Role.SOFTMAX,), (Value.PROBABILITIES,)))
    yield
    OBSERVERS.remove(MeanRange)


# --- what works with it ---------------------------------------------------------------------------------------------------


def prepared(spec: OperandSpec | None, search: ScaleSearch | None = None) -> fx.GraphModule:
    config = QuantConfig(LayerSpec(softmax=spec, search=search), attention=True)
    return fxquant.prepare(small_vit(depth=1), config, images())


def converted(spec: OperandSpec | None, target: Literal["int8", "fake"] = "fake") -> fx.GraphModule:
    return fxquant.convert(fxquant.calibrate(prepared(spec), [images()], progress=False), target)


def calls(gm: fx.GraphModule, *operators: object) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.target in operators]


@pytest.mark.parametrize("target", ["fake", "int8"])
def test_is_simulated_in_a_converted_model(target: Literal["int8", "fake"]) -> None:
    gm = converted(Roots(), target)
    codes, value = calls(gm, quantize_roots, dequantize_roots)
    assert (codes.target, value.target) == (quantize_roots, dequantize_roots)
    assert codes.args[2] == 15
    assert value.args == (codes, codes.args[1])
    found, fine, plain = (converted(spec)(images()) for spec in (Roots(), Roots(127), None))
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)
    assert not torch.equal(found, fine)


def test_is_reported() -> None:
    for target in ("fake", "int8"):
        (product,) = [p for p in fxquant.report(converted(Roots(), target)) if p.product == "pv"]  # type: ignore[arg-type]
        assert (product.operands[0].dtype, product.operands[0].granularity) == ("root15", "PerTensor()")
        assert product.int8 is False
    assert product.reason == "simulated: codes such as those of the left operand have no int8 form"


def test_is_searched_like_any_other() -> None:
    gm = prepared(Roots(), ScaleSearch(smallest=0.5, largest=1.5, steps=20))
    fxquant.calibrate(gm, [images()], progress=False)
    (observer,) = [m for m in gm.modules() if isinstance(m, RootsObserver)]
    found = observer.calculate_qparams().scale / observer.initial_qparams().scale
    assert observer.refined
    assert 0.5 <= float(found) < 1.5
    fake = fxquant.convert(gm, "fake")
    (codes,) = calls(fake, quantize_roots)
    assert torch.equal(tensor_of(codes.args[1]), observer.calculate_qparams().scale)


@pytest.mark.parametrize("stage", ["prepared", "converted"])
def test_is_saved_and_loaded(stage: str, tmp_path: Path) -> None:
    calibrated = fxquant.calibrate(prepared(Roots()), [images()], progress=False)
    gm = calibrated if stage == "prepared" else fxquant.convert(calibrated, "fake")
    fxquant.save(gm, tmp_path / "model.safetensors")
    loaded = fxquant.load(tmp_path / "model.safetensors")
    x = images()
    assert torch.equal(loaded(x), gm(x))
    assert str(fxquant.report(loaded)) == str(fxquant.report(gm))


def test_only_what_the_table_says_may_have_it() -> None:
    assert LayerSpec(softmax=Roots()).softmax == Roots()
    assert Placement(probabilities=Roots()).probabilities == Roots()
    with pytest.raises(
        ConfigError, match=r"LayerSpec\.gelu must be a TensorSpec, TwinGELU, AdaLogGELU, Float8 or None, got Roots"
    ):
        LayerSpec(gelu=Roots())
    with pytest.raises(
        ConfigError, match=r"LayerSpec\.softmax must be a TensorSpec, TwinSoftmax, AdaLogSoftmax, Log2, Roots or None"
    ):
        LayerSpec(softmax=Role.SOFTMAX)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"Placement\.gelu must be a TensorSpec or TwinGELU or AdaLogGELU or None, got Roots"
    ):
        Placement(gelu=Roots())


def test_without_the_line_nothing_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KINDS, Roots)
    with pytest.raises(
        ConfigError, match=r"LayerSpec\.softmax must be a TensorSpec, TwinSoftmax, AdaLogSoftmax, Log2 or None"
    ):
        LayerSpec(softmax=Roots())


def test_a_placement_asks_for_no_int8_product_of_it() -> None:
    config = QuantConfig(placement=Placement(scores=TensorSpec(), probabilities=Roots(), linear=TensorSpec()))
    gm = fxquant.prepare(small_vit(depth=1), config, images())
    gm = fxquant.convert(fxquant.calibrate(gm, [images()], progress=False), "int8", strict=True)
    assert len(calls(gm, quantize_roots)) == 1


def prepared_by_mean(search: ScaleSearch | None = None) -> fx.GraphModule:
    config = QuantConfig(LayerSpec(activation=TensorSpec(observer=MeanRange(2.5)), search=search))
    return fxquant.prepare(small_vit(depth=1), config, images())


@pytest.mark.parametrize("search", [None, ScaleSearch(smallest=0.5, largest=1.5, steps=20)])
def test_another_range_runs_on_int8_and_is_searched(search: ScaleSearch | None) -> None:
    gm = fxquant.calibrate(prepared_by_mean(search), [images()], progress=False)
    observers = [m for m in gm.modules() if isinstance(m, MeanRangeObserver)]
    assert [m.refined for m in observers] == [search is not None] * len(observers)
    assert all(torch.equal(-minimum, maximum) for minimum, maximum in (m.range() for m in observers))
    asked = [p.int8 for p in fxquant.report(fxquant.convert(gm, strict=True)) if p.requested]
    assert asked == [True] * 6  # patches, four linear layers, head


@pytest.mark.parametrize("stage", ["prepared", "converted"])
def test_another_range_is_saved_and_loaded(stage: str, tmp_path: Path) -> None:
    calibrated = fxquant.calibrate(prepared_by_mean(), [images()], progress=False)
    gm = calibrated if stage == "prepared" else fxquant.convert(calibrated)
    fxquant.save(gm, tmp_path / "model.safetensors")
    loaded = fxquant.load(tmp_path / "model.safetensors")
    x = images()
    assert torch.equal(loaded(x), gm(x))
    if stage == "prepared":
        assert torch.equal(fxquant.convert(loaded)(x), fxquant.convert(gm)(x))
    assert MeanRange(2.5) in [o.spec.observer for o in operands(loaded) if isinstance(o.spec, TensorSpec)]


def operands(gm: fx.GraphModule) -> list[Operand]:
    return [operand for node in gm.graph.nodes if (record := record_of(node)) for operand in record.operands]


def test_another_range_that_is_not_in_the_list_cannot_be_saved(tmp_path: Path) -> None:
    OBSERVERS.remove(MeanRange)
    try:
        with pytest.raises(fxquant.CheckpointError, match=r"MeanRange cannot be stored; convert the model first"):
            fxquant.save(prepared_by_mean(), tmp_path / "model.safetensors")
    finally:
        OBSERVERS.append(MeanRange)
