"""The page holds what became of each node at each stage, whole and without anything from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch import fx, nn

import fxquant
from fxquant import InputError, UnsupportedGraphError
from fxquant.inspection.html import render
from tests.support.models import images, small_vit

Graphs = tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    """Return the float, the prepared and the int8 graph, whose patch embedding stays float."""
    traced = fxquant.trace(small_vit(), images())
    prepared = fxquant.prepare(traced, fxquant.recipe("minmax", patch_embed=False))
    fxquant.calibrate(prepared, [images()], progress=False)
    return traced, prepared, fxquant.convert(prepared)


@pytest.fixture(scope="module")
def data(graphs: Graphs) -> dict[str, Any]:
    return fxquant.inspect(*graphs, images=images(), time=True).to_dict()


def cell(data: dict[str, Any], stage: int, module: str, name: str) -> dict[str, Any]:
    """Return what the page has of one node."""
    rows = list(zip(data["rows"]["module"], data["rows"]["name"], strict=True))
    columns = data["stages"][stage]["cells"]
    position = columns["row"].index(rows.index((module, name)))
    return {key: values[position] for key, values in columns.items()}


def test_stages_stand_side_by_side_in_one_row(data: dict[str, Any]) -> None:
    assert [stage["title"] for stage in data["stages"]] == ["float", "prepared", "int8"]
    found = [cell(data, stage, "blocks.0.mlp.fc1", "linear") for stage in range(3)]
    assert [c["state"] for c in found] == ["float", "observed", "int8"]
    assert [c["operator"] for c in found] == ["linear", "linear", "int8_linear_gelu_quantize"]
    assert found[2]["operands"] == [
        ["input", "uint8", [4, 17, 32], "per tensor", pytest.approx(0.03, abs=0.02)],
        ["weight", "int8", [128, 32], "per channel", pytest.approx(0.005, abs=0.004)],
    ]


def test_products_that_stay_float_say_why(data: dict[str, Any]) -> None:
    found = cell(data, 2, "patch_embed.proj", "conv2d")
    assert (found["state"], found["reason"]) == ("float", "patch embedding is switched off in the config")
    assert all(reason is None for reason in data["stages"][0]["cells"]["reason"])


def test_what_is_measured_stands_with_the_product(data: dict[str, Any]) -> None:
    found = cell(data, 2, "blocks.1.mlp.fc2", "linear")
    assert found["sqnr"] > 20
    assert found["cosine"] > 0.99
    assert found["ms"] > 0
    assert "sqnr" not in data["stages"][0]["cells"]


def test_the_shares_of_a_comparison_stand_with_its_nodes(graphs: Graphs) -> None:
    compared = fxquant.compare(graphs[0], graphs[2], [images()], progress=False)
    data = fxquant.inspect(*graphs, compared=compared).to_dict()
    (fc2,) = (record for record in compared if record.module == "blocks.1.mlp.fc2" and record.share is not None)
    assert cell(data, 2, "blocks.1.mlp.fc2", "linear")["of_error"] == fc2.share
    assert all("of_error" not in data["stages"][index]["cells"] for index in range(2))
    with pytest.raises(InputError, match="expected a comparison of one of these graphs"):
        fxquant.inspect(*graphs[:2], compared=compared)


def test_operands_weights_and_images_are_drawn(data: dict[str, Any]) -> None:
    rows = list(zip(data["rows"]["module"], data["rows"]["name"], strict=True))
    fc2 = rows.index(("blocks.0.mlp.fc2", "linear"))
    (histogram,) = [h for h in data["stages"][2]["histograms"] if h["row"] == fc2]
    assert sum(histogram["counts"]) == 4 * 17 * 128
    assert histogram["grid"]["scales"] == 1
    assert histogram["clipped"] == 0
    assert fc2 in [weight["row"] for weight in data["weights"]]
    assert len(data["images"]["pictures"]) == 4
    attention = [(each["module"], each["stage"]) for each in data["images"]["attention"]]
    assert attention == [(f"blocks.{i}.attn", stage) for stage in ("float", "prepared", "int8") for i in range(2)]
    assert {tuple(each["grid"]) for each in data["images"]["norms"]} == {(4, 4)}


def test_all_columns_are_of_one_length_and_json(data: dict[str, Any]) -> None:
    for stage in data["stages"]:
        assert len({len(values) for values in stage["cells"].values()}) == 1
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))


def test_the_page_is_saved_whole_and_needs_no_other_file(graphs: Graphs, tmp_path: Path) -> None:
    inspection = fxquant.inspect(*graphs)
    inspection.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert not re.search(r"""(src|href)=["']?https?:|@import|url\(["']?https?:""", text)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert repr(inspection) == "<Inspection of VisionTransformer: float, prepared, int8; save(path) writes the page>"
    with pytest.raises(InputError, match="cannot write"):
        inspection.save(tmp_path / "missing" / "page.html")


def test_names_do_not_become_markup(graphs: Graphs) -> None:
    hostile = "</script><script>alert(1)</script>"
    page = render(hostile, fxquant.inspect(graphs[0]).to_dict() | {"title": hostile})
    assert hostile not in page
    assert "&lt;/script&gt;" in page
    frame = fxquant.Inspection('"><b>', fxquant.inspect(graphs[0]).to_dict())._repr_html_()
    assert frame.count("<") == 2, "one frame, whose page is all escaped"


def test_a_compiled_graph_and_two_of_a_kind_have_titles_of_their_own(graphs: Graphs) -> None:
    compiled = fxquant.compile(graphs[2], backend="aten")
    data = fxquant.inspect(graphs[2], graphs[2], compiled).to_dict()
    assert [stage["title"] for stage in data["stages"]] == ["int8", "int8 #2", "compiled"]


def test_what_cannot_be_shown_is_refused(graphs: Graphs) -> None:
    with pytest.raises(InputError, match="inspect expected at least one graph, found none"):
        fxquant.inspect()
    with pytest.raises(UnsupportedGraphError, match="inspect expected a graph that fxquant made, found a Linear"):
        fxquant.inspect(nn.Linear(2, 2))
    with pytest.raises(InputError, match="images are measured against the float model: give its graph"):
        fxquant.inspect(graphs[2], images=images())
    with pytest.raises(InputError, match="time=True is measured on images"):
        fxquant.inspect(graphs[0], time=True)


def test_passes_come_from_the_folder_of_the_trace(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FXQUANT_TRACE", raising=False)
    with pytest.raises(InputError, match="passes=True reads the folder that FXQUANT_TRACE names"):
        fxquant.inspect(graphs[0], passes=True)
    monkeypatch.setenv("FXQUANT_TRACE", str(tmp_path))
    gm = fxquant.convert(graphs[1])
    passes = {p["name"]: p for p in fxquant.inspect(gm, passes=True).to_dict()["passes"]}
    assert any("fxquant_ops_int8_linear_int8_linear(" in line for line in passes["lower_linear"]["added"])
    assert any("linear(" in line for line in passes["lower_linear"]["removed"])
    assert fxquant.inspect(gm, passes=tmp_path).to_dict()["passes"] == list(passes.values())
