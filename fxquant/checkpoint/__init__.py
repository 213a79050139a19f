"""
Save and load: a graph at any stage as one safetensors file, from which nothing is executed.

The header of the file holds the graph, its records and its observers as JSON; the functions in it are names out of
`fxquant.dialect`. Integer weights lie in the file as int8, or several codes to a byte where they fit four bits, two or one.
Checksums cover the header and each tensor. The same graph gives the same bytes in any process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx

from fxquant.checkpoint import container
from fxquant.checkpoint.decode import decode, decode_tensors
from fxquant.checkpoint.encode import encode
from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.errors import CheckpointError, InputError, expect_path, reason_of

# Of files of torch.save, graphs of other libraries, archives and text.
_FOREIGN = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"),
    *(".pt2", ".onnx", ".tflite", ".gguf", ".h5", ".keras", ".msgpack"),
    *(".npz", ".npy", ".zip", ".tar", ".gz", ".json", ".csv", ".txt", ".py"),
)


def save(gm: fx.GraphModule, path: str | os.PathLike[str]) -> None:
    """
    Write the graph module `gm`, at any stage, to the safetensors file `path`.

    The file is written under a temporary name and renamed, so that `path` never holds half a checkpoint. Source locations
    (stack traces) are not saved.

    Raises `CheckpointError` for what cannot be stored, naming the node and the function, tensor or observer, and where the
    file cannot be written.
    """
    path = str(expect_path(path, CheckpointError))
    _refuse_suffix(path)
    with _naming(path, "cannot be saved"):
        container.write(path, *encode(gm))


def _refuse_suffix(path: str) -> None:
    """Refuse a name by which other programs would take the file for something that it is not."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _FOREIGN:
        raise CheckpointError(
            f"{path}: expected a name that ends in .safetensors, which is what save writes, not {suffix}"
        )


def count_file_bytes(gm: fx.GraphModule) -> int:
    """Return the size of the file that `save` would write of `gm`; raise as it does."""
    return container.count_bytes(*encode(gm))


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> StagedGraph:
    """
    Return the graph module that `save` wrote to `path`, at the same stage, with its tensors on `device`.

    The model's own code is not needed, and no code comes from the file. Outputs, statistics and ``state_dict`` are those of
    the saved module, bit for bit.

    Raises `CheckpointError` where the file is missing, damaged, not a checkpoint, of a newer format, or holds anything else
    than a legal graph.
    """
    path, device = str(expect_path(path, CheckpointError)), _usable(device)
    with torch.inference_mode(False):  # else nothing loaded could be changed again outside of it
        with _naming(path, "cannot be loaded"):
            contents, stored = container.read(path)
            values = decode_tensors(contents, stored)
        values = {key: value.to(device) for key, value in values.items()}
        with _naming(path, "cannot be loaded"):
            return decode(contents, values, StagedGraph)


def _usable(device: torch.device | str) -> torch.device:
    """Return a device that tensors can be on; raise `InputError` where there is none of that name."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {device!r} cannot be used: {reason_of(error)}") from error


@contextmanager
def _naming(path: str, problem: str) -> Iterator[None]:
    """Name the file in every error, and make a `CheckpointError` of whatever else a malformed file or graph leads to."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: {problem}: {type(error).__name__}: {error}") from error
