"""Published files of weights, read without running code that is in them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from fxquant.errors import InputError

# What training scripts wrap weights in, averaged ones (EMA) first.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema", "ema_model"),
    *("state_dict", "model_state_dict", "model", "module", "net", "weights", "shadow"),
)
_FOREIGN = {
    ".h5": "an HDF5 file, as Keras writes it",
    ".keras": "a Keras file",
    ".hdf5": "an HDF5 file, as Keras writes it",
    ".msgpack": "a Flax file",
    ".onnx": "an ONNX graph",
    ".gguf": "a GGUF file",
    ".tflite": "a TensorFlow Lite graph",
    ".pt2": "a program of torch.export",
}


class _Ignored:
    """Stands in for what NumPy objects are made of: it takes what a file gives and does nothing with it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Numbers next to the weights, such as the best accuracy. NumPy 2 calls its module numpy._core, NumPy 1 numpy.core.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.ndarray"),
    *(
        (_Ignored, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
]


def read_weights(file: Path) -> dict[str, Any]:
    """
    Return the state dict in `file`, out of what training scripts wrap it in; averaged weights (EMA) are preferred.

    Names are those of the file. Objects next to the weights are read as far as they are plain data; no code in the file runs.

    Raises `InputError` where the file cannot be read so: it says what kind of file it is, and what can be done.
    """
    if file.is_dir():
        raise InputError(f"checkpoint {str(file)!r} is {_describe_folder(file)}")
    if not file.is_file():
        raise InputError(f"checkpoint {str(file)!r} does not exist")
    _refuse_foreign(file)
    found = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    wrapper = ""
    while isinstance(found, Mapping) and (key := next((k for k in _WRAPPERS if _holds_tensors(found.get(k))), "")):
        found, wrapper = found[key], f" under {key!r}"
    if not isinstance(found, Mapping) or not _holds_tensors(found):
        what = f"keys {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else type(found).__name__
        raise InputError(f"checkpoint {str(file)!r} does not hold a state dict{wrapper}, but {what}")
    return {str(name): value for name, value in found.items()}


def _holds_tensors(value: object) -> bool:
    """Say whether `value` is a mapping with tensors in it, or in a mapping in it."""
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) or _holds_tensors(v) for v in value.values())


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            if any(key.startswith("fxquant") for key in opened.metadata() or ()):
                raise InputError(
                    f"checkpoint {str(file)!r} is a quantised model that fxquant saved: fxquant.load reads it"
                )
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {error}") from error


def _read_pickle(file: Path) -> Any:
    try:
        with safe_globals(_HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        classes = _classes(file, str(error))
        reason = _describe_classes(file, classes) if classes else _first_line(error)
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {reason}") from error
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {error}") from error


def _first_line(error: Exception) -> str:
    """Return what is wrong, without torch's advice to read the file unsafely."""
    found = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return found[1] if found else str(error).partition("\n")[0]


def _classes(file: Path, message: str) -> list[str]:
    """Return the names of the classes and functions that reading `file` would call."""
    with safe_globals(_HARMLESS):
        try:
            return sorted(get_unsafe_globals_in_checkpoint(file))
        except Exception:  # it lists those of zip archives alone
            return re.findall(r"GLOBAL (\S+)", message)


def _describe_classes(file: Path, classes: list[str]) -> str:
    """Return what the file needs: the names that are not torch's own, else those, and how to save it without them."""
    own = [name for name in classes if name.startswith(("torch.", "builtins."))]
    others = [name for name in classes if name not in own]
    shown = ", ".join(others or own) + (f" and {len(own)} of torch" if others and own else "")
    return (
        f"it is no plain state dict, reading it runs code of {shown}, which weights_only forbids. If you trust it, save its "
        f"weights once where these can be imported: found = torch.load({str(file)!r}, weights_only=False); torch.save(found."
        "state_dict(), 'weights.pth') for a whole model, torch.save(found['state_dict'], 'weights.pth') for a dict of that key"
    )


def _refuse_foreign(file: Path) -> None:
    kind = _FOREIGN.get(file.suffix.lower())
    todo = "load it with the library that wrote it, and save the model's state_dict() with torch.save"
    members = _members(file)
    if file.suffix.lower() in (".npz", ".npy") or any(name.endswith(".npy") for name in members):
        kind = "a NumPy file (.npz), as JAX weights are published"
        todo = (
            "for the models whose layout timm knows, m = timm.create_model(MODEL); m.load_pretrained(F); "
            "torch.save(m.state_dict(), 'weights.pth') makes a file of it"
        )
    elif any(name.endswith("constants.pkl") for name in members):
        kind = "a TorchScript program"
        todo = "torch.save(torch.jit.load(F).state_dict(), 'weights.pth') makes a file of its weights"
    elif file.name.endswith(".index.json"):
        kind = "the index of a model in several files"
    if kind:
        raise InputError(
            f"checkpoint {str(file)!r} is {kind}: expected a state dict of PyTorch (.safetensors, .pth). To use it: {todo}"
        )


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def _describe_folder(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if "architecture" in config:
        return f"a model folder of timm: give local-dir:{folder} as MODEL, with --pretrained"
    if "model_type" in config or "architectures" in config:
        name = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
        return (
            f"a model folder of Hugging Face transformers ({name}), not of timm: load it with "
            f"{name}.from_pretrained and give the model to fxquant.quantize"
        )
    files = sorted(f.name for f in folder.iterdir() if f.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"))
    return "a folder: give the file of weights" + (f" in it, such as {', '.join(files[:3])}" if files else "")
