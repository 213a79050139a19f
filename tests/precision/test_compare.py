"""Nodes of a quantised model beside those of the float one, and what each makes of the final error."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Tensor, fx

import fxquant
from fxquant import ConfigError, InputError, UnsupportedGraphError
from tests.support.models import images, small_vit

BAD = "blocks.1.attn.qkv"


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    return fxquant.trace(small_vit(), images())


def quantized(traced: fx.GraphModule, target: str) -> fx.GraphModule:
    """Return a graph at 8 bits, of which one layer has 3."""
    config = fxquant.recipe("minmax").set_module_name(BAD, fxquant.recipe("minmax", 3, 3).layer)
    prepared = fxquant.calibrate(fxquant.prepare(traced, config), [images()], progress=False)
    return fxquant.convert(prepared, target)  # type: ignore[arg-type]


def test_the_layer_with_few_bits_makes_the_error_at_any_stage(traced: fx.GraphModule) -> None:
    found = [
        fxquant.compare(traced, quantized(traced, target), [images()], progress=False) for target in ("fake", "int8")
    ]
    for comparison in found:
        (worst,) = comparison.worst(1)
        assert worst.module == BAD
        assert worst.share is not None
        assert worst.share > 0.8
    shares = [{r.module: r.share for r in comparison if r.module == BAD} for comparison in found]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3), "a product is restored to the same float result"
    assert found[0].error == pytest.approx(found[1].error, rel=1e-3)


def test_the_error_is_that_of_all_outputs_and_metrics_see_all_of_them(traced: fx.GraphModule) -> None:
    gm = quantized(traced, "int8")
    labels = traced(images(6)).argmax(-1)
    batches = [(images(6)[:4], labels[:4]), (images(6)[4:], labels[4:])]
    found = fxquant.compare(traced, gm, batches, "top1", shares=False, progress=False)
    x, y = traced(images(6)).detach().double(), gm(images(6)).detach().double()
    assert found.error == pytest.approx(float((x - y).norm() / x.norm()))
    assert found.float_score == 100
    assert found.score == pytest.approx(100 * float((y.argmax(-1) == labels).double().mean()))
    assert all(record.share is None for record in found)
    own = fxquant.compare(traced, gm, batches, lambda out, to: len(out) + len(to), shares=False, progress=False)
    assert own.score == 12
    embedded = fxquant.compare(traced, gm, [images()], "cosine", shares=False, progress=False)
    assert embedded.float_score == pytest.approx(1)
    assert 0.5 < (embedded.score or 0) < 1


def test_it_prints_plots_and_turns_into_json(traced: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    found = fxquant.compare(traced, quantized(traced, "fake"), [images()], shares=False, progress=False)
    head, columns, *lines = str(found).splitlines()
    assert head.startswith("error of the outputs: 0.")
    assert columns.split("  ")[0] == "node"
    assert len(lines) == len(found) == len(json.loads(json.dumps(found.to_dict()))["records"])
    assert repr(found) == str(found)
    assert found._repr_html_().count("<tr>") == 1 + len(found)
    assert f"<td>{BAD}</td>" in found._repr_html_()
    assert len(found.plot().axes) == 2
    assert found.plot()._repr_png_().startswith(b"\x89PNG"), "which is what notebooks ask for"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="to_frame needs pandas, which is not installed"):
        found.to_frame()


def test_what_cannot_be_compared_is_refused(traced: fx.GraphModule) -> None:
    gm = quantized(traced, "int8")
    with pytest.raises(
        UnsupportedGraphError, match=r"expected a graph from fxquant\.convert, not compiled, found a Vision"
    ):
        fxquant.compare(traced, small_vit(), [images()])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedGraphError, match="expected the float model first"):
        fxquant.compare(gm, gm, [images()])
    with pytest.raises(InputError, match="at least one batch"):
        fxquant.compare(traced, gm, [])
    with pytest.raises(ConfigError, match="metric must be 'top1', 'cosine' or a function"):
        fxquant.compare(traced, gm, [images()], "accuracy")
    with pytest.raises(InputError, match=r"top1 expected labels \(4,\) next to the images"):
        fxquant.compare(traced, gm, [images()], "top1", shares=False, progress=False)


def test_of_several_outputs_all_count() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.two(x)

    model, x = Two().eval(), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    gm = fxquant.quantize(model, [x], "minmax", 4, 4, target="fake", progress=False)
    found = fxquant.compare(model, gm, [x], progress=False)
    exact, given = (torch.cat(f(x), 1).detach().double() for f in (model, gm))
    assert found.error == pytest.approx(float((exact - given).norm() / exact.norm()))
    assert sum(r.share or 0 for r in found) == pytest.approx(1), "two branches that do not meet"
    for metric, batch in (("cosine", x), ("top1", (x, torch.zeros(5, dtype=torch.long)))):
        with pytest.raises(
            InputError, match=f"{metric} expected a model that returns one tensor, found 2 of them: wrap"
        ):
            fxquant.compare(model, gm, [batch], metric, shares=False, progress=False)
