"""docs/architecture.md: floors are those that imports keep, listings what the code gives; docs/passes.md has all passes."""

from __future__ import annotations

import re
from functools import cache

import pytest
import timm
import torch
from torch import fx, nn

import fxquant
from bench import pass_list
from tests.support import documents

PAGE = "docs/architecture.md"
BLOCK = "blocks.0."  # left out of the names


@cache
def stages() -> dict[str, str]:
    """Return the listing of a ViT with one block at each stage."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=64, depth=1, num_heads=4, num_classes=10
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), images)
    graphs: dict[str, fx.GraphModule] = {"trace": fxquant.trace(model, images), "prepare": prepared}
    fxquant.calibrate(prepared, [images], progress=False)
    graphs |= {"fake": fxquant.convert(prepared, "fake"), "int8": fxquant.convert(prepared)}
    return {name: documents.listing(gm).replace(BLOCK, "").replace("blocks_0_", "") for name, gm in graphs.items()}


@pytest.mark.parametrize("stage", ["trace", "int8"])
def test_the_whole_graph_is_shown(stage: str) -> None:
    assert documents.between(PAGE, stage) == stages()[stage]


@pytest.mark.parametrize("stage", ["prepare", "fake"])
def test_the_first_layer_of_the_mlp_is_shown(stage: str) -> None:
    shown = documents.between(PAGE, stage)
    assert f"\n{shown}\n" in stages()[stage]
    lines = shown.splitlines()
    assert "norm2.weight" in lines[0]
    assert "gelu(" in lines[-1]


def test_every_pass_is_listed_with_its_docstring() -> None:
    page = documents.page("docs/passes.md")
    assert page == pass_list.render(), "run python -m bench.pass_list"
    listed = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(file.stem for file in (documents.ROOT / "passes").glob("[a-z]*.py"))


def test_the_worked_pass_keeps_what_a_pass_promises(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    found = documents.run("docs/writing-a-pass.md")
    for name in [name for name in found if name.startswith("test_")]:
        found[name]()
    assert "1 of 1 products on int8" in capsys.readouterr().out


def test_the_floors_are_those_that_are_kept() -> None:
    floors = pytest.importorskip("tests.test_floors").FLOORS
    rows = next(rows for rows in documents.tables(documents.page(PAGE)) if rows[0][0] == "floor")
    assert [tuple(documents.spans(row[0])) for row in rows[1:]] == list(floors)
