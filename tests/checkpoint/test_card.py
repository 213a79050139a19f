"""What a saved graph says of itself: it comes back, is checked, and is the same bytes in any process without timm."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fxquant
from fxquant import CheckpointError, ConfigError
from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.graph.card import ATTRIBUTES
from tests.support.checkpoints import at_stage, forge, images

# What the class has beside the attributes of a card.
SPOKEN = {"__copy__", "__module__", "__doc__", "_repr_html_"}
CONFIG = fxquant.DataConfig((3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_pct=1.0)
CARD = fxquant.ModelCard(
    "conv net",
    CONFIG,
    5,
    ("cat", "dog", "eel", "fox", "Ü-Bahn 'x'"),
    fxquant.UsedRecipe("minmax", 4, 8, (("published", True), ("percent", 99.5), ("metric", "mse"), ("cut", None))),
    fxquant.MeasuredAccuracy(71.0, 72.5, 300, "a folder"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    gm: Any = copy.deepcopy(at_stage("conv", "int8", w_bits=4))
    gm.card = CARD
    fxquant.save(gm, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_it_comes_back_with_the_versions(path: Path) -> None:
    loaded = fxquant.load(path)
    assert replace(loaded.card, versions=()) == CARD
    assert loaded.data_config == CONFIG
    assert loaded.class_names == CARD.class_names
    versions = dict(loaded.card.versions)
    assert versions["fxquant"] == fxquant.__version__
    assert versions["torch"] == torch.__version__
    assert "timm" in versions


def test_a_graph_without_a_card_has_an_empty_one() -> None:
    gm = fxquant.load(Path(__file__).parents[1] / "data" / "saved_before" / "int8_vvtq_vit.safetensors")
    assert gm.card == fxquant.ModelCard()
    assert gm.data_config is None


def test_it_goes_through_the_verbs_and_what_was_measured_does_not() -> None:
    gm: Any = fxquant.trace(torch.nn.Sequential(torch.nn.Linear(8, 8)).eval(), torch.randn(2, 8))
    gm.card = replace(CARD, versions=(("fxquant", "0.0.1"),))
    prepared = fxquant.calibrate(fxquant.prepare(gm, fxquant.recipe("minmax")), [torch.randn(4, 8)], progress=False)
    assert fxquant.convert(prepared).card == replace(CARD, accuracy=None)


def test_quantize_notes_its_recipe() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval()
    gm: Any = fxquant.quantize(model, [torch.randn(4, 8)], "percentile", 8, 6, attention=False)
    assert gm.card.recipe == fxquant.UsedRecipe("percentile", 8, 6, (("attention", False),))
    assert str(gm.card.recipe) == "recipe percentile (attention=false), W8A6"


def test_the_names_on_a_graph_are_kept_from_tensors() -> None:
    assert set(vars(StagedGraph)) - set(dir(object)) - SPOKEN == set(ATTRIBUTES)

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.card, self.data_config = torch.nn.Linear(4, 4), torch.nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.card(x) * self.data_config  # type: ignore[no-any-return]

    x = torch.randn(2, 4)
    model = Named().eval()
    gm: Any = fxquant.trace(model, x)
    assert gm.data_config is None
    assert torch.equal(gm(x), model(x))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_names": ("a", "b\n")}, "one printable line"),
        ({"class_names": ("a", '"""')}, "one printable line"),
        ({"class_names": ("a", "b")}, "expected names of 5 classes, got 2"),
        ({"class_names": ["a"] * 5}, "must be a tuple"),
        ({"data_config": {"mean": 0.5}}, "data_config must be a DataConfig"),
        ({"num_classes": -1}, "num_classes must be a number"),
        ({"model": 3}, "one printable line"),
    ],
)
def test_cards_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CARD, **values)


def test_accuracy_is_in_percent() -> None:
    for top1 in (-1, 101, float("nan"), "71"):
        with pytest.raises(ConfigError, match="quantised_top1 must be a number from 0 to 100"):
            fxquant.MeasuredAccuracy(top1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["data_config"].update(mean=[0.5]),
        lambda card: card["data_config"].update(std=[0.5, 0.5, {"float": "nan"}]),
        lambda card: card["data_config"].update(input_size=[3, 2**70, 8]),
        lambda card: card["data_config"].update(interpolation="exec"),
        lambda card: card["data_config"].update(crop_pct=True),
        lambda card: card.update(data_config=card["recipe"]),
        lambda card: card.update(class_names=["a", 'b"""']),
        lambda card: card.update(class_names=["a" * 2000] * 5),
        lambda card: card.update(class_names="abcde"),
        lambda card: card.update(num_classes=1.5),
        lambda card: card.update(model=["a"]),
        lambda card: card.update(versions=[["a"]]),
        lambda card: card.update(versions=[["a", "b"]] * 200),
        lambda card: card.update(more=1),
        lambda card: card.update(type="Record"),
        lambda card: card["accuracy"].update(images=-1),
        lambda card: card["accuracy"].update(float_top1={"float": "inf"}),
        lambda card: card["recipe"].update(options=[["a", [1]]]),
        lambda card: card["recipe"].update(w_bits=0),
        lambda card: card.clear(),
    ],
)
def test_forged_cards_are_refused(change: Callable[[Any], None], path: Path) -> None:
    forge(path, lambda contents, tensors: change(contents["card"]))
    with pytest.raises(CheckpointError):
        fxquant.load(path)


def test_a_card_that_is_none(path: Path) -> None:
    forge(path, lambda contents, tensors: contents.update(card=None))
    with pytest.raises(CheckpointError):
        fxquant.load(path)


SERVED = """
import sys
sys.modules["timm"] = None
import fxquant, torch
from safetensors.torch import load_file, save_file
gm = fxquant.load("model.safetensors")
save_file({"y": gm(load_file("x.safetensors")["x"])}, "y.safetensors")
fxquant.save(gm, "again.safetensors")
print(gm.data_config.mean, *(name for name in sys.modules if name.startswith("timm.") or name.startswith("tests")))
"""


def test_the_same_graph_gives_the_same_bytes_and_is_served_without_timm(path: Path) -> None:
    again, x = path.with_name("twice.safetensors"), images("conv")
    gm: Any = copy.deepcopy(at_stage("conv", "int8", w_bits=4))
    gm.card = CARD
    fxquant.save(gm, again)
    assert again.read_bytes() == path.read_bytes()
    save_file({"x": x}, path.with_name("x.safetensors"))
    environment = {"PYTHONPATH": str(Path(fxquant.__file__).parents[1]), "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    served = subprocess.run(
        [sys.executable, "-c", SERVED], cwd=path.parent, env=environment, capture_output=True, text=True, check=True
    )
    assert served.stdout == "(0.5, 0.4, 0.3)\n"
    assert path.with_name("again.safetensors").read_bytes() == path.read_bytes()
    save_file({"y": gm(x)}, path.with_name("wanted.safetensors"))
    assert path.with_name("y.safetensors").read_bytes() == path.with_name("wanted.safetensors").read_bytes()
