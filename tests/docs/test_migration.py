"""docs/migration: what is said of other libraries runs, and so does what takes its place."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.support import documents

pytestmark = pytest.mark.long
_PT2E = "torchao.quantization.pt2e"
NAMES = [
    ("torch-ao", ("torch.ao.quantization", "torch.ao.quantization.quantize_fx")),
    (
        "pt2e",
        (
            f"{_PT2E}.quantize_pt2e",
            f"{_PT2E}.lowering",
            f"{_PT2E}.quantizer",
            f"{_PT2E}.quantizer.x86_inductor_quantizer",
        ),
    ),
    ("torchao", ("torchao.quantization",)),
]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names that the pages take for granted; nothing is compiled."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=64, num_heads=2)
    images = torch.randn(4, 3, 32, 32)
    return {"model": model.eval(), "images": images, "batches": [images]}


@pytest.mark.parametrize(("page", "needs"), [("torch-ao", "torch.ao"), ("pt2e", "torchao"), ("torchao", "torchao")])
def test_both_sides_run(page: str, needs: str, given: dict[str, Any]) -> None:
    pytest.importorskip(needs)
    model, images = given["model"], given["images"]
    with torch.no_grad():
        found = documents.run(f"docs/migration/{page}.md", **given)
        error = (found["quantized"](images) - model(images)).norm() / model(images).norm()
    assert 0 < error < 0.1


@pytest.mark.parametrize(("page", "modules"), NAMES)
def test_what_stands_on_the_left_is_theirs(page: str, modules: tuple[str, ...]) -> None:
    places: list[Any] = [torch, *(pytest.importorskip(module) for module in modules)]
    classes = [value for place in places for value in vars(place).values() if isinstance(value, type)]
    _, *rows = next(documents.tables(documents.page(f"docs/migration/{page}.md")))
    for span in [span for row in rows for span in documents.spans(row[0])]:
        name = span.partition("(")[0].removeprefix("torch.")
        assert any(hasattr(place, name.split(".")[0]) for place in [*places, *classes]), name


def test_the_call_for_the_code_of_a_paper_runs(given: dict[str, Any]) -> None:
    quantized = documents.run("docs/migration.md", **given)["quantized"]
    assert ("published", True) in quantized.card.recipe.options
