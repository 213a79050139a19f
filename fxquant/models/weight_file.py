"""Published files of weights, read without running code that is in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fxquant.errors import InputError, reason_of
from fxquant.models.pickled_module import is_pickled_module, is_pickled_object, module_state
from fxquant.pickles import foreign_names, load_inert

# What training scripts wrap weights in, averaged ones (EMA) first.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema", "ema_model"),
    *("state_dict", "model_state_dict", "model", "module", "net", "weights", "shadow"),
)
_MOST_WRAPPERS = 10  # in each other; a file may say that one holds itself
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


def read_weights(file: Path) -> dict[str, Any]:
    """
    Return the state dict in `file`, out of what training scripts wrap it in; averaged weights (EMA) are preferred.

    Names are those of the file. No code runs that a file holds or names. Of a whole model that was pickled the parameters and
    kept buffers are taken; of other objects plain data alone is read.

    Raises `InputError` where the file cannot be read so: it says what kind of file it is, and what can be done.
    """
    if file.is_dir():
        raise InputError(f"checkpoint {str(file)!r} is {_describe_folder(file)}")
    if not file.is_file():
        raise InputError(f"checkpoint {str(file)!r} does not exist")
    _refuse_foreign(file)
    if file.suffix == ".safetensors":
        return _unwrap(_read_safetensors(file), file)
    try:
        return _unwrap(load_inert(file), file)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {_describe_failure(file, error)}") from error


def _unwrap(found: Any, file: Path) -> dict[str, Any]:
    """Return the innermost state dict; raise `InputError` where there is none. A pickled object may raise anything."""
    wrapper = ""
    for _ in range(_MOST_WRAPPERS):
        if not isinstance(found, Mapping) or is_pickled_module(found):
            break
        key = next((key for key in _WRAPPERS if _holds_weights(found.get(key))), None)
        if key is None:
            break
        found, wrapper = found[key], f" under {key!r}"
    if is_pickled_object(found) and not is_pickled_module(found):
        raise pickle.UnpicklingError(f"what it holds{wrapper} is an object of a class that is no module")
    state = module_state(found) if is_pickled_module(found) else found
    if not isinstance(state, Mapping) or not _holds_weights(state):
        what = f"keys {', '.join(map(str, list(state)[:5]))}" if isinstance(state, Mapping) else type(state).__name__
        raise InputError(f"checkpoint {str(file)!r} does not hold a state dict{wrapper}, but {what}")
    return {str(name): value for name, value in state.items()}


def _holds_weights(value: object) -> bool:
    """Say whether `value` is a module, or a mapping with a tensor or a module in it or in a mapping in it."""
    seen, todo = set[int](), [value]
    for value in todo:
        if is_pickled_module(value):
            return True
        if isinstance(value, Mapping) and id(value) not in seen:  # a file may say that it holds itself
            seen.add(id(value))
            if any(isinstance(item, Tensor) for item in value.values()):
                return True
            todo += value.values()
    return False


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            if any(key.startswith("fxquant") for key in opened.metadata() or ()):
                raise InputError(
                    f"checkpoint {str(file)!r} is a quantised model that fxquant saved: fxquant.load reads it"
                )
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {reason_of(error)}") from error


def _describe_failure(file: Path, error: Exception) -> str:
    """Return what is wrong with the file: the classes that it needs, with the way out, or what torch says of its damage."""
    reason = reason_of(error)
    classes = foreign_names(file) if isinstance(error, pickle.UnpicklingError | TypeError | ValueError) else []
    own = [name for name in classes if name.startswith(("torch.", "builtins.", "collections."))]
    others = [name for name in classes if name not in own]
    if not classes:
        return reason
    shown = ", ".join(others or own) + (f" and {len(own)} of torch and Python" if others and own else "")
    return (
        f"its weights cannot be found without code of {shown}, which is not run ({reason}). If you trust the file, save its "
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
    config = config if isinstance(config, dict) else {}
    if "architecture" in config:
        return f"a model folder of timm: give local-dir:{folder} as MODEL, with --pretrained"
    if "model_type" in config or "architectures" in config:
        name, *_ = config.get("architectures") or ["AutoModel"]
        return (
            f"a model folder of Hugging Face transformers ({config.get('model_type', name)}), not of timm: load it there with "
            f"{name}.from_pretrained({str(folder)!r}), and give the model to fxquant.quantize"
        )
    files = sorted(f.name for f in folder.iterdir() if f.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"))
    return "a folder: give the file of weights" + (f" in it, such as {', '.join(files[:3])}" if files else "")
