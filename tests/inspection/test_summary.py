"""Graphs and reports show themselves in a terminal and in a notebook."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from tests.support.models import images, small_vit


@pytest.fixture(scope="module")
def graphs() -> dict[str, fx.GraphModule]:
    traced = fxquant.trace(small_vit(), images())
    prepared = fxquant.calibrate(fxquant.prepare(traced, fxquant.recipe("minmax")), [images()], progress=False)
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    return {"float": traced, "observed": prepared, "simulated": fake, "int8": int8}


@pytest.mark.parametrize("state", ["float", "observed", "simulated", "int8"])
def test_a_graph_is_a_few_lines_at_every_stage(graphs: dict[str, fx.GraphModule], state: str) -> None:
    lines = repr(graphs[state]).splitlines()
    assert lines[1].split() == ["patch_embed", "1", state]
    blocks = f"5 {state}" if state == "float" else f"4 {state}, 1 float"
    assert lines[2:4] == [f"  blocks.0 to 1  {blocks}", f"  head           1 {state}"]
    assert len(lines) == 5
    html = graphs[state]._repr_html_()  # type: ignore[operator]
    assert f">{state}</span>" in html
    assert "blocks.0 to 1" in html


def test_a_compiled_graph_shows_the_graph_that_it_holds(graphs: dict[str, fx.GraphModule]) -> None:
    compiled = fxquant.compile(graphs["int8"], backend="aten")
    assert "compiled" in repr(compiled)
    assert repr(compiled).splitlines()[1:] == repr(graphs["int8"]).splitlines()[1:]
    assert "blocks.0 to 1" in compiled._repr_html_()  # type: ignore[operator]


def test_a_report_is_shown_as_its_text_and_as_a_table(graphs: dict[str, fx.GraphModule]) -> None:
    report = fxquant.report(graphs["int8"])
    assert repr(report) == str(report)
    html = report._repr_html_()
    assert html.count("<tr>") == 1 + len(report)
    assert "the fused attention kernel is faster" in html


def test_names_stay_text() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<b>x", nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return getattr(self, "<b>x")(x)  # type: ignore[no-any-return]

    gm = fxquant.trace(Odd().eval(), torch.randn(2, 4))
    for html in (gm._repr_html_(), fxquant.report(gm)._repr_html_()):  # type: ignore[operator]
        assert "<b>x" not in html
        assert "&lt;b&gt;x" in html
