"""Files of weights: what wraps them is taken off, no code in them runs, and other kinds of files are told apart."""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fxquant.errors import InputError
from fxquant.models.weight_file import read_weights

STATE = {"a.weight": torch.ones(2), "b": torch.zeros(3)}
OTHER = {name: tensor + 7 for name, tensor in STATE.items()}


def write(folder: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=zipped)
    return folder / "weights.pth"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        {"model_state_dict": STATE, "optimizer": {"state": {0: torch.ones(1)}}},
        {"model": {"state_dict": STATE}},
        {"module": STATE, "model_ema": None},
        {"state_dict": OTHER, "state_dict_ema": STATE},
        {"model": OTHER, "ema_state_dict": STATE},
        {"model": STATE, "ema": {"decay": 0.9}},  # no weights
        {"model": STATE, "best": np.float64(81.0), "curve": np.arange(3.0), "epochs": np.int64(3)},
    ],
)
def test_weights_are_found_in_what_training_scripts_write(tmp_path: Path, content: Any, zipped: bool) -> None:
    found = read_weights(write(tmp_path, content, zipped))
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_numpy_objects_are_not_built(tmp_path: Path) -> None:
    found = read_weights(write(tmp_path, {"a": torch.ones(1), "b": np.ones(3)}))
    assert type(found["b"]).__name__ == "Called"


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    file, mark = write(tmp_path, {"model": STATE, "extra": [0]}), tmp_path / "mark"
    torch.save({"model": STATE, "extra": Touch(mark)}, file)
    with pytest.raises(InputError, match=r"without code of .*Path"):
        read_weights(file)
    assert not mark.exists()


def test_classes_that_a_file_needs_are_named_with_the_way_out(tmp_path: Path) -> None:
    file = write(tmp_path, {"net": nn.TransformerEncoderLayer(8, 2), "extra": Touch(tmp_path)})
    with pytest.raises(
        InputError,
        match=r"without code of pathlib.* and [0-9]+ of torch .*weights_only=False\); torch.save\(found.state_dict",
    ):
        read_weights(file)


def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold a state dict, but keys epoch, loss"):
        read_weights(write(tmp_path, {"epoch": 1, "loss": 0.5}))
    with pytest.raises(InputError, match="does not hold a state dict, but list"):
        read_weights(write(tmp_path, [1, 2]))
    with pytest.raises(InputError, match=r"none\.pth' does not exist"):
        read_weights(tmp_path / "none.pth")


def test_a_saved_quantised_model_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors", {"fxquant_format": "1"})
    with pytest.raises(InputError, match=r"fxquant\.load reads it"):
        read_weights(tmp_path / "a.safetensors")


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "ViT.npz", a=np.zeros(2))
    (tmp_path / "ViT.npz").rename(tmp_path / "ViT.pth")  # known by what is in it
    with pytest.raises(InputError, match=r"NumPy file \(\.npz\), as JAX .* m\.load_pretrained\(F\)"):
        read_weights(tmp_path / "ViT.pth")
    with zipfile.ZipFile(tmp_path / "traced.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(InputError, match=r"TorchScript program.*torch\.jit\.load"):
        read_weights(tmp_path / "traced.pt")
    for name, kind in (("a.h5", "HDF5"), ("a.onnx", "ONNX"), ("a.bin.index.json", "several files")):
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(InputError, match=f"{kind}.*expected a state dict of PyTorch"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["ViTModel"], "model_type": "vit"},
            r"transformers \(vit\), .* with ViTModel\.from_pretrained\('/",
        ),
        (
            {"model_type": "dinov2"},
            r"transformers \(dinov2\), not of timm: load it there with AutoModel\.from_pretrained",
        ),
        ([], "is a folder: give the file of weights in it"),
        ({"architecture": "vit_tiny_patch16_224"}, r"of timm: give local-dir:.* as MODEL, with --pretrained"),
        (None, r"is a folder: give the file of weights in it, such as a\.safetensors"),
    ],
)
def test_folders_say_whose_they_are(tmp_path: Path, config: Any, message: str) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path)
