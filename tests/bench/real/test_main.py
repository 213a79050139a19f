"""`python -m bench.real`: each cell once, refusals and failures told, figures of other images kept apart; its table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import fxquant
from bench.real import run, tasks
from bench.real.__main__ import main
from bench.real.cells import RealCell
from bench.real.table import chapter, expected, real, real_recipe, summary
from bench.real.tasks import Trial, score_logits
from fxquant.config.recipes.book import RECIPES

KEY = "glyphs-112 W8A8 minmax"


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A tiny model in the place of the first task, and the splits that it was loaded for."""
    splits: list[int] = []

    def load(split: int, count: int | None) -> Trial:
        splits.append(split)
        model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=62).eval()
        images = torch.randn(count or 4, 3, 16, 16)
        return Trial(model, [images], images, partial(score_logits, torch.arange(len(images))))

    monkeypatch.setitem(tasks.TASKS, "glyphs-112", load)
    return splits


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return ["--tasks", "glyphs-112", "--recipes", "minmax", "--bits", "W8A8", "--json", str(tmp_path / "real.json")]


def read(command: list[str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(Path(command[-1]).read_text(encoding="utf-8"))["rows"]
    return rows


def test_cells_are_measured_once(command: list[str], loaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    main(command)
    main(command)
    assert loaded == [1]
    row = read(command)[KEY]
    assert 0 < row["error"] < 0.1
    assert row["seconds"] is not None
    assert "float_top1" not in row
    main(["--force", *command])
    monkeypatch.setitem(RECIPES, "minmax", partial(fxquant.recipe, "percentile"))
    main(command)
    assert loaded == [1, 1, 1]  # the recipe of that name has changed


def test_figures_of_other_images_do_not_mix(command: list[str]) -> None:
    main(command)
    for other in (["--split", "development"], ["--images", "2"]):
        with pytest.raises(SystemExit, match="name another --out"):
            main([*other, *command])


def test_refusals_and_failures_are_told(command: list[str], loaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [word.replace("W8A8", "W4A99") for word in command]
    main(command)
    main(command)
    assert loaded == [1]
    assert "refused" in read(command)["glyphs-112 W4A99 minmax"]

    def fail(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(run, "_measure", fail)
    command = [word.replace("W4A99", "W8A8") for word in command]
    for _ in range(2):
        with pytest.raises(SystemExit, match="1 cells failed"):
            main(command)
    assert read(command)[KEY]["stopped"] == "MemoryError: too large"


@pytest.mark.parametrize(("option", "reason"), [("--bits", "expected bits such as"), ("--recipes", "invalid choice")])
def test_what_is_not_known_is_refused(option: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option, "none"])
    assert reason in capsys.readouterr().err


def test_cells_know_the_constants_of_their_recipe() -> None:
    digests = [
        RealCell("glyphs-112", *cell).digest for cell in (("minmax", "W8A8"), ("minmax", "W4A8"), ("ema", "W8A8"))
    ]
    assert len(set(digests)) == 3
    assert RealCell("saliency", "minmax", "W8A8").digest == digests[0]
    assert RealCell("saliency", "minmax", "W4A99").digest == "refused"


def test_the_table_stands_beside_the_code_of_the_authors() -> None:
    common: dict[str, Any] = {"date": "2026-01-01", "commit": "abc", "threads": 2}
    cells: list[dict[str, Any]] = [
        {"task": "glyphs-112", "recipe": "fqvit", "bits": "W6A6", "refused": "8 bits alone"},
        {"task": "glyphs-112", "recipe": "minmax", "bits": "W8A8", "error": 0.0784, "top1": 63.4, "seconds": 3.2},
        {"task": "saliency", "recipe": "minmax", "bits": "W4A4", "mae": 0.0123, "iou": 0.5, "seconds": 9.6},
        {"task": "saliency", "recipe": "ema", "bits": "W4A4", "stopped": "MemoryError"},
    ]
    data = {
        "environment": {"processor": "CPU", "torch": "2", "timm": "1", "cores": 2},
        "settings": {"split": "held-out", "images": None, "calib": 32, "calib_batch": 8},
        "float_top1": {"glyphs-112": 64.4},
        "rows": {str(number): cell | common for number, cell in enumerate(cells)},
    }
    text = real(data)
    assert "float top-1 64.4 %" in text
    assert "| `minmax` | 0.078 / 63.4 |  |  |  | 3 to 3 |" in text
    assert "| `fqvit` |  | refused |  |  |  |" in text
    assert "| `minmax` |  |  |  | 0.0123 / 0.500 | 10 to 10 |" in text
    assert "| `ema` |  |  |  | failed |  |" in text
    assert "| ERQ, its own code | 0.157 / 61.0 | 0.437 / 49.0 |  | 0.990 / 12.2 |  |" in text
    assert text.index("`minmax`") < text.index("`fqvit`")
    assert "`held-out`, 32 calibration images" in text
    assert "<!-- real:begin -->" in chapter()
    line = "| Glyphs of 62 classes at 112 px | error of the logits / top-1 % | 0.078 / 63.4 |  |  |  | 3 to 3 |"
    assert line in real_recipe("minmax", data)
    assert "ema" not in real_recipe("minmax", data)
    assert real_recipe("gptq", data) == "Not measured yet: `python -m bench.real --recipes gptq` does it."
    assert "| `default` | 64.4 |  |  |  |  |\n| `minmax` | 64.4 | 63.4 |  |  |  |" in summary(data)
    default = data | {"rows": {"0": cells[1] | common | {"recipe": "default"}}}
    assert "| W8A8 | 0.078 | 63.4 | 3 |\n| W6A6 |  |  |  |" in expected(default)
