"""What is wrong with a model, its images or its config is told, and what is right is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import ConfigError, InputError
from fxquant.diagnosis.product_sections import check_products
from fxquant.inspection.report import ProductReport, Report

CONFIG = fxquant.DataConfig((3, 8, 8), (0.5,) * 3, (0.5,) * 3)


class Perceptron(nn.Module):
    """Two linear layers that read images ``(B, 3, 8, 8)`` as one token each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(192, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(torch.relu(self.fc1(x.flatten(1))))
        return y


def images(count: int, seed: int) -> Tensor:
    """Return images of -1 to 1 whose brightness varies."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.rand(count, 1, 1, 1, generator=generator) - 0.5
    return (2 * torch.rand(count, 3, 8, 8, generator=generator) - 1 + light).clamp(-1, 1)


MODEL = Perceptron().eval()
CALIBRATION, EVALUATION = [images(8, 0)], [images(8, 1), images(8, 2)]


def look(model: nn.Module = MODEL, config: fxquant.QuantConfig | None = None, **options: object) -> fxquant.Diagnosis:
    """Return the diagnosis without what takes long, unless it is asked for."""
    given = {"batches": CALIBRATION, "evaluate": EVALUATION, "data_config": CONFIG, "changes": 0, "time": False}
    config = fxquant.recipe("minmax") if config is None else config
    return fxquant.doctor(model, config=config, progress=False, **(given | options))  # type: ignore[arg-type]


class Opaque(nn.Module):
    """A grouped convolution of three axes, which has no int8 form, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(4, 4, 2, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.conv(x).mean((2, 3, 4)))
        return y


def test_opaque_parts_are_told() -> None:
    gm = fxquant.quantize(Opaque().eval(), [torch.randn(2, 4, 3, 3, 3)], recipe="minmax", progress=False)
    found = fxquant.doctor(gm, time=False)
    (told,) = found.section("capture").warnings
    assert told.startswith("1 calls are opaque and stay as they are: conv: opaque: 1024 multiply-accumulates in conv3d")
    assert not look().section("capture").warnings


def test_products_that_stay_float_although_they_were_asked_for_are_told() -> None:
    one = ProductReport("a", "a", "linear", (), None, 30, int8=True, requested=True, reason=None, kernel="x")
    two = replace(one, name="b", macs=60, int8=False, reason="too few channels")
    three = replace(one, name="c", macs=10, int8=False, requested=False, reason="attention=False")
    section = check_products(Report((one, two, three), "lowered", "float32"))
    assert section.rows == (("1", "60.0%", "too few channels", "b"), ("1", "10.0%", "attention=False", "c"))
    assert section.warnings == (
        "1 products that the config quantises stay float, 60.0% of multiply-accumulates: too few channels",
    )


class Tokens(nn.Module):
    """A linear layer that reads one token of many times the range of the others."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.fc, self.factor = nn.Linear(8, 8), factor

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2).repeat(1, 1, 4)[:, :, :8]  # (B, N, 8)
        y: Tensor = self.fc(torch.cat((self.factor * tokens[:, :1], tokens[:, 1:]), 1))
        return y


@pytest.mark.parametrize(("factor", "recipe", "told"), [(30.0, "minmax", 1), (30.0, "dynamic", 0), (1.0, "minmax", 0)])
def test_outlier_tokens_that_share_a_scale_are_told(factor: float, recipe: str, told: int) -> None:
    tokens = [torch.rand(4, 3, 4, 4)]
    section = look(Tokens(factor).eval(), fxquant.recipe(recipe), batches=tokens, evaluate=None).section("tokens")
    assert len(section.warnings) == told
    assert len(section.rows) == (factor > 1)
    assert all("fc.input" in warning for warning in section.warnings)


def test_black_calibration_images_are_told_and_others_are_measured_in_their_place() -> None:
    assert not look().section("shift").warnings
    black = [0.01 * torch.randn(8, 3, 8, 8) - 1]
    found = look(batches=black, changes=1, evaluate=[images(16, 1)])
    (told,) = found.section("shift").warnings
    assert told.startswith("calibration images look unlike the evaluation images: the ")
    lines = found.section("changes").lines
    assert lines[0].startswith("1) calibrate with images like those of the evaluation: error ")
    assert "measured on 1 of 2 evaluation batches: the others calibrate" in lines


def test_the_gain_of_a_change_is_measured() -> None:
    config = fxquant.recipe("minmax").set_module_name("fc2", fxquant.recipe("minmax", 8, 2).layer)
    section = look(config=config, more=[images(8, 5)], changes=9).section("changes")
    tried = {each["name"]: each["error"] for each in section.figures["tried"]}
    assert list(tried) == [
        "calibrate with more images",
        "recipe default at W8A8",
        "recipe minmax at W8A8",
        "compute in bfloat16 what is not int8",
        *(f"fc2: {form}" for form in ("activations int8 per token", "activations int8", "float")),
        "fc1: float",
    ]
    assert [row[0] for row in section.rows[:2]] == ["float model", "as it is"]
    assert "quantised alone, most error is made by fc2.input" in section.lines[-1]
    best = sorted(tried, key=tried.__getitem__)[:3]
    assert [line.partition(": error")[0] for line in section.lines[:3]] == [f"{i}) {n}" for i, n in enumerate(best, 1)]

    def error(config: fxquant.QuantConfig) -> float:
        prepared = fxquant.calibrate(fxquant.prepare(MODEL, config, CALIBRATION[0]), CALIBRATION, progress=False)
        x, y = (torch.cat([m(b) for b in EVALUATION]).detach().double() for m in (MODEL, fxquant.convert(prepared)))
        return float((x - y).norm() / x.norm())

    assert section.figures["before"]["error"] == pytest.approx(error(config))
    assert tried["recipe default at W8A8"] == pytest.approx(error(fxquant.recipe("default")))
    assert tried["fc2: float"] == pytest.approx(error(config.set_module_name("fc2", None)))


def test_the_fastest_change_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.diagnosis.measured_changes.time_ratio", lambda *_: 0.5)
    lines = look(config=fxquant.recipe("dynamic"), changes=2, time=True).section("changes").lines
    assert any(line.startswith("fastest, recipe default at W8A8: error ") and "time 0.50x" in line for line in lines)


def test_what_cannot_be_answered_is_left_out_with_the_reason() -> None:
    found = look(evaluate=None)
    left = {section.name: section.left_out for section in found.sections}
    assert left["shift"] == "it needs calibration images and evaluation images"
    assert left["changes"] == "it needs evaluation images: there are none"
    assert left["time"] == "times were not to be measured"
    assert left["products"] is None
    gm = fxquant.quantize(MODEL, CALIBRATION, recipe="minmax", progress=False)
    saved = {section.name: section.left_out for section in fxquant.doctor(gm).sections}
    assert saved["preprocessing"] == "it needs images: there are none"
    assert saved["tokens"] == "it needs the float model, or a recipe that measured it"
    assert saved["changes"] == "it needs the float model, which a quantised graph does not hold"
    assert saved["time"] is None
    with pytest.raises(ConfigError, match="has its config and its calibration"):
        fxquant.doctor(gm, CALIBRATION)
    with pytest.raises(InputError, match="found a prepared graph"):
        fxquant.doctor(fxquant.prepare(MODEL, fxquant.recipe("minmax"), CALIBRATION[0]))
    with pytest.raises(InputError, match="give it batches to calibrate with"):
        fxquant.doctor(MODEL)
    with pytest.raises(ConfigError, match="expected_top1 must be in percent"):
        fxquant.doctor(MODEL, expected_top1=-1.0)


def test_it_is_text_a_page_and_plain_data(tmp_path: Path) -> None:
    found = look(time=True)
    assert len(found.section("time").rows) == 6
    hostile = replace(found.sections[0], warnings=("<script>alert(1)</script>",))
    found = fxquant.Diagnosis("vit", (hostile, *found.sections[1:5]), {"recipe": "minmax"})
    text = str(found)
    assert text.startswith(
        "vit: 1 thing to see to\nrecipe  minmax\n\n1. Are the images prepared as the model expects?\n  ! <"
    )
    assert json.loads(json.dumps(found.to_dict()))["sections"]["shift"]["figures"]["threshold"] == 0.001
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script>" not in page
    assert all(section.title in page for section in found.sections)
    assert found._repr_html_().lstrip().startswith('<div class="fxquant">')
    with pytest.raises(InputError, match="sections preprocessing, capture"):
        found.section("speed")
