"""Calls with what cannot be meant raise fxquant's own errors, which say what was expected and what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.data import ImageBatches, Samples, draw_images, read_image_tree
from fxquant.distillation import make_labels
from fxquant.errors import FxquantError
from fxquant.measurement.evaluation import evaluate
from fxquant.synthesis import load_images, save_images
from fxquant.training import train
from tests.support.models import images, small_vit

MODEL = small_vit(depth=1)
BATCH = images()
LABELLED = [(BATCH, torch.tensor([0, -1, 2, 3]))]
SAMPLES = Samples(Path("a"), (Path("a/b.png"),), (0,))
wrong: Any = None  # typed so that calls with it can be written down


def prepared() -> fx.GraphModule:
    return fxquant.prepare(MODEL, fxquant.recipe("minmax"), BATCH)


CALLS: list[tuple[str, Callable[[], object]]] = [
    ("expected an iterable of calibration batches, found None", lambda: fxquant.calibrate(prepared(), wrong)),
    ("expected an iterable of calibration batches, found a int: 5", lambda: fxquant.calibrate(prepared(), 5)),  # type: ignore[arg-type]
    ("memory must be a whole number of at least 1, got -1", lambda: fxquant.calibrate(prepared(), [BATCH], memory=-1)),
    ("memory must be a whole number of at least 1, got None", lambda: fxquant.calibrate(prepared(), [], memory=wrong)),
    ("seed must be a whole number of at least 0, got -1", lambda: fxquant.calibrate(prepared(), [BATCH], seed=-1)),
    ("expected a torch.nn.Module, found NoneType", lambda: fxquant.quantize(wrong, [BATCH])),
    ("found None", lambda: fxquant.quantize(MODEL, wrong)),
    ("unknown target 'int4'", lambda: fxquant.quantize(MODEL, [BATCH], target="int4")),  # type: ignore[arg-type]
    ("unknown recipe 'ptq4vt', did you mean 'ptq4vit'", lambda: fxquant.quantize(MODEL, [BATCH], "ptq4vt")),
    (
        "expected a config alone, found a_bits, rounds beside it",
        lambda: fxquant.quantize(MODEL, [BATCH], fxquant.recipe("minmax"), a_bits=6, rounds=1),
    ),
    ("unknown recipe ['a']", lambda: fxquant.recipe(["a"])),  # type: ignore[arg-type]
    ("got an unexpected keyword argument 'foo'; see fxquant recipes", lambda: fxquant.recipe("default", foo=1)),
    ("drop_path must lie in", lambda: fxquant.prepare_qat(MODEL, drop_path="x")),  # type: ignore[arg-type]
    ("ends in .safetensors, which is what save writes, not .bin", lambda: fxquant.save(prepared(), "model.bin")),
    ("expected the path of a file or folder, found None", lambda: fxquant.save(prepared(), wrong)),
    ("expected the path of a file or folder, found None", lambda: fxquant.load(wrong)),
    ("device 'tpu' cannot be used", lambda: fxquant.load("a.safetensors", "tpu")),
    ("or the path of one that it saved, found a NoneType", lambda: fxquant.compile(wrong)),
    ("found nothing there", lambda: fxquant.compile("missing.safetensors")),
    ("device 'tpu' cannot be used", lambda: fxquant.compile("a.safetensors", device="tpu")),
    ("device is for a file: move the tensors of a graph", lambda: fxquant.compile(prepared(), device="cpu")),
    ("expected a torch.nn.Module, found NoneType", lambda: fxquant.synthesize(wrong)),
    ("n must be a whole number of at least 1, got '3'", lambda: fxquant.synthesize(MODEL, "3")),  # type: ignore[arg-type]
    ("expected an iterable of batches, found None", lambda: evaluate(MODEL, wrong)),
    ("expected a model, found None", lambda: evaluate(wrong, [])),
    ("device 'tpu' cannot be used", lambda: evaluate(MODEL, [], device="tpu")),
    ("label -1 is not one of the model's 10 classes", lambda: evaluate(MODEL, LABELLED)),
    ("expected the path", lambda: read_image_tree(wrong)),
    ("expected the path", lambda: load_images(wrong)),
    ("expected the path", lambda: save_images(wrong, BATCH)),
    ("calibration must be a whole number", lambda: draw_images(wrong, 2.5)),  # type: ignore[arg-type]
    ("seed must be a whole number from 0 to 4294967295, got -1", lambda: draw_images(wrong, 2, seed=-1)),
    ("batch_size must be a whole number of at least 1, got 0", lambda: ImageBatches(SAMPLES, wrong, 0)),
    ("workers must be a whole number of at least 0, got -1", lambda: ImageBatches(SAMPLES, wrong, 1, -1)),
    ("expected a teacher, a torch.nn.Module, found NoneType", lambda: make_labels(wrong, SAMPLES, wrong, "out")),
    ("expected fxquant.training.TrainingData, found NoneType", lambda: train(fxquant.prepare_qat(MODEL), wrong)),
]


@pytest.mark.parametrize(("message", "call"), CALLS, ids=range(len(CALLS)))
def test_what_is_wrong_is_said(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(FxquantError) as raised:
        call()
    assert message in str(raised.value)


def test_progress_is_silent_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FXQUANT_PROGRESS_MINUTES", "0")
    labelled = [(BATCH, torch.zeros(4, dtype=torch.int64))]
    fxquant.calibrate(prepared(), [BATCH])
    evaluate(MODEL, labelled)
    fxquant.quantize(MODEL, [BATCH], "minmax")
    assert capsys.readouterr().err.splitlines() == [
        "calibrate: 1 of 1, 100%",
        "evaluate: 1 of 1, 100%",
        "calibrate: 1",
    ]
    fxquant.calibrate(prepared(), [BATCH], progress=False)
    evaluate(MODEL, labelled, progress=False)
    fxquant.quantize(MODEL, [BATCH], progress=False)
    assert capsys.readouterr().err == ""
    assert isinstance(MODEL, nn.Module)
