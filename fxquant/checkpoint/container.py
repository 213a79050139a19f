"""The file itself: a safetensors file whose header holds the graph as JSON, written under another name and renamed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from safetensors.torch import save_file
from torch import Tensor

from fxquant.checkpoint.scalars import Json
from fxquant.errors import CheckpointError, reason_of
from fxquant.files import write_atomically
from fxquant.version import __version__

_LARGE = 128 * 1024  # bytes, from which malloc itself takes a mapping, until the first one is freed
FORMAT = 2  # raise it where an older release would misread the file
_FORMAT, _VERSION, _CONTENTS, _DIGEST = "fxquant_format", "fxquant_version", "fxquant_graph", "fxquant_graph_sha256"


def write(path: str, contents: Json, tensors: dict[str, Tensor]) -> None:
    """
    Write `contents` and `tensors` to `path`; whatever fails, the file that was there before is still whole.

    Raises `CheckpointError` where the file cannot be written.
    """
    metadata = _metadata(contents)
    try:
        write_atomically(path, lambda name: _write(name, tensors, metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint cannot be written: {reason_of(error)}") from error


def count_bytes(contents: Json, tensors: dict[str, Tensor]) -> int:
    """Return the size of the file that `write` writes."""
    return len(serialize(tensors, _metadata(contents)))


def _metadata(contents: Json) -> dict[str, str]:
    text = json.dumps(contents, allow_nan=False, separators=(",", ":"))
    return {_FORMAT: str(FORMAT), _VERSION: __version__, _CONTENTS: text, _DIGEST: _digest(text)}


def _write(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file; its metadata, which the library writes in another order each time, has that of the keys."""
    save_file(tensors, name, metadata)
    with open(name, "rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) != length:
            raise OSError(f"the header took {length} bytes, and {len(text)} in the order of its keys")
        file.seek(8)
        file.write(text)


def read(path: str) -> tuple[Json, dict[str, Tensor]]:
    """
    Return the contents and the tensors of a checkpoint, the latter on the CPU in memory of their own.

    The file is opened once and read by tensor, so that it never lies in memory twice, and two files that take each other's
    place are never mixed.
    """
    if not os.path.isfile(path):
        found = "a directory" if os.path.isdir(path) else "something else" if os.path.exists(path) else "nothing there"
        raise CheckpointError(f"expected a file written by fxquant.save, found {found}")
    try:
        with safe_open(path, framework="pt", device="cpu", backend="pread") as file:
            contents = _parse(file.metadata() or {})
            tensors = {key: _owning(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected a safetensors file written by fxquant.save: {reason_of(error)}") from error
    return contents, tensors


def _owning(value: Tensor) -> Tensor:
    """Return a copy; a large one has a mapping of its own, which goes back to the system with it as no part of a heap does."""
    if value.nbytes < _LARGE:
        return value.clone()
    memory = mmap.mmap(-1, value.nbytes, access=mmap.ACCESS_COPY)  # of this process: a fork changes a copy
    return torch.frombuffer(memory, dtype=value.dtype).view(value.shape).copy_(value)


def _parse(metadata: dict[str, str]) -> Json:
    if _FORMAT not in metadata or _CONTENTS not in metadata:
        raise CheckpointError("this safetensors file was not written by fxquant.save: it holds no graph")
    version, text = metadata.get(_VERSION, "?"), metadata[_CONTENTS]
    number = metadata[_FORMAT]
    if not re.fullmatch("[1-9][0-9]{0,8}", number):
        raise CheckpointError(f"the header is damaged: format {number!r:.100}")
    if int(number) > FORMAT:
        raise CheckpointError(
            f"format {int(number)} is newer than this fxquant {__version__}, which reads up to {FORMAT}: install fxquant "
            f"{version:.40} or later"
        )
    if _digest(text) != metadata.get(_DIGEST):
        raise CheckpointError("the header is damaged: its checksum differs")
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise CheckpointError(f"the header is damaged: {name} is not JSON")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
