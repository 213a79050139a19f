"""Synthetic calibration images: made once, whatever stops a run and however many processes ask for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fxquant
from bench.imagenet.figure import Synthesis
from bench.imagenet.images import synthetic_images
from fxquant.models.timm_model import build_timm_model
from tests.bench.imagenet.making import TINY, call_on, figure, make_checkpoints, make_images, publish, rows_of

MADE = Synthesis((("iterations", 2), ("jitter", (2,))), published=(("published", True),))
SYNTHETIC = tuple(
    replace(figure("PSAQ-ViT", "psaq", published=()), w_bits=w_bits, a_bits=8, batch=2, synthesis=MADE)
    for w_bits in (4, 8)
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoints(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a call of the command line for the figures above that writes ``out.json``."""
    publish(SYNTHETIC, monkeypatch)
    return partial(call_on, make_images(tmp_path / "images"), checkpoints, tmp_path)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the steps of synthesis that are taken from now on."""
    taken: list[int] = []
    make = fxquant.synthesize
    monkeypatch.setattr(fxquant, "synthesize", partial(make, on_step=lambda progress: taken.append(progress.step)))
    return taken


@pytest.mark.long
def test_synthetic_images_are_made_once_for_all_rows(
    run: Callable[..., int], tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--constants", "published") == 0
    assert steps == [1, 2]
    assert "| tiny | W4A8 | PSAQ-ViT | published | 4 synthetic | 99.00 |" in capsys.readouterr().out
    first, second = rows_of(tmp_path).values()
    assert [(row["w_bits"], row["a_bits"]) for row in (first, second)] == [(4, 8), (8, 8)]
    assert first["synthesis"] == {"iterations": 2, "jitter": [2], "published": True}
    key = "W4A8 psaq() 4 synthetic(iterations=2,jitter=(2,),published=true) images by 2 on all of 6 seed=0 int8"
    assert f"{TINY.tag} {key}" in rows_of(tmp_path)
    (file,) = (tmp_path / "out.images").glob("*.safetensors")
    images, facts = fxquant.synthesis.load_images(file)
    assert (images.shape, facts["model"]) == ((4, 3, 160, 160), TINY.tag)
    assert run("--constants", "published", "--force", "--bits", "W8A8", "--target", "fake") == 0
    assert steps == [1, 2]


@pytest.mark.long
def test_interrupted_synthesis_goes_on_where_it_was(
    run: Callable[..., int], checkpoints: Path, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: fxquant.synthesis.Progress) -> None:
        raise KeyboardInterrupt

    publish(SYNTHETIC[:1], monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(fxquant, "synthesize", partial(fxquant.synthesize, on_step=interrupt))
        assert run("--constants", "published") == 130
    assert run("--constants", "published") == 0
    assert steps == [2]
    (file,) = (tmp_path / "out.images").glob("*.safetensors")
    resumed, _ = fxquant.synthesis.load_images(file)
    assert not list((tmp_path / "out.images").glob("*.state"))
    file.unlink()
    source = build_timm_model(TINY.tag, checkpoint=checkpoints / f"{TINY.tag}.safetensors", num_classes=3)
    options = dict(MADE.options) | dict(MADE.published)
    again = synthetic_images(file.parent, source, 4, (3, 160, 160), 0, options)
    assert file.exists()
    assert steps == [2, 1, 2]
    assert torch.equal(resumed, again)
    synthetic_images(file.parent, source, 4, (3, 160, 160), 0, dict(MADE.options))  # other settings, other images
    assert len(list(file.parent.glob("*.safetensors"))) == 2


def test_processes_wait_for_the_one_that_synthesises(tmp_path: Path, checkpoints: Path, steps: list[int]) -> None:
    source = build_timm_model(TINY.tag, checkpoint=checkpoints / f"{TINY.tag}.safetensors", num_classes=3)
    options = dict(MADE.options) | {"iterations": 1}
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(synthetic_images, tmp_path / "made", source, 2, (3, 160, 160), 0, options) for _ in "ab"]
        first, second = (each.result(60) for each in asked)
    assert steps == [1]
    assert torch.equal(first, second)
