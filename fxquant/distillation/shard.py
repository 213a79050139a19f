"""One file of packed labels: the crops of many images in a few tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.soft_targets import SoftTargets
from fxquant.distillation.source import CropLabels, join_labels
from fxquant.errors import InputError
from fxquant.files import write_atomically

_KIND = "fxquant_labels_shard"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Shard:
    """
    The tensors of a file, mapped into memory: only the rows that are asked for are read.

    coords: ``(R, 4)`` float32.
    flips: ``(R,)`` uint8.
    classes: ``(R, k)`` int16 or int32; None where the probabilities of all classes are stored in order.
    probabilities: ``(R, k)`` or ``(R, C)`` float32; None where classes are certain.
    """

    coords: Tensor
    flips: Tensor
    classes: Tensor | None
    probabilities: Tensor | None

    def take(self, rows: Sequence[int], kind: LabelKind, num_classes: int) -> CropLabels:
        """Return the crops `rows` of the file."""
        index = torch.tensor(rows, dtype=torch.int64)
        none, certain = torch.empty(len(rows), 0, dtype=torch.int64), torch.ones(len(rows), 1)
        classes = none if self.classes is None else self.classes[index].long()
        p = certain if self.probabilities is None else self.probabilities[index]
        return CropLabels(self.coords[index], self.flips[index].bool(), SoftTargets(classes, p, num_classes, kind))


def write_shard(file: Path, names: Sequence[str], labels: Sequence[CropLabels], settings: Mapping[str, Any]) -> None:
    """
    Write the labels of the images `names`, one after the other; raise `InputError` where that fails.

    settings: what the labels were made with, in values that JSON can hold. `read_counts` compares them.
    """
    coords, flips, targets = join_labels(labels)
    tensors = {"coords": coords, "flips": flips.to(torch.uint8)}
    if targets.kind is not LabelKind.ORI:
        small = targets.num_classes <= torch.iinfo(torch.int16).max + 1
        tensors["classes"] = targets.classes.to(torch.int16 if small else torch.int32)
    if targets.kind is not LabelKind.HARD:
        tensors["probabilities"] = targets.probabilities
    facts = {
        "format": _FORMAT,
        "settings": settings,
        "names": _digest(names),
        "counts": [len(item.flips) for item in labels],
    }
    held = {name: t.contiguous() for name, t in tensors.items()}
    try:
        metadata = {_KIND: json.dumps(facts, allow_nan=False)}
        write_atomically(file, lambda name: save_file(held, name, metadata))
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {str(file)!r}: {error}") from error


def read_counts(file: Path, names: Sequence[str], settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """
    Return the number of crops of each image in a file that was written before; None where there is no file.

    Raises `InputError` naming what differs where the file has other `settings` or other images.
    """
    if not file.exists():
        return None
    facts = _open(file)[1]
    saved = facts.get("settings")
    saved = saved if isinstance(saved, dict) else {}
    for name in dict.fromkeys([*settings, *saved]):
        here, there = json.dumps(settings.get(name)), json.dumps(saved.get(name))
        if here != there:
            raise InputError(
                f"{str(file)!r} holds other labels: {name} is {there} there and {here} here. Give the same settings to go on "
                "with them, or another folder, or delete it"
            )
    if facts.get("format") != _FORMAT or facts.get("names") != _digest(names):
        raise InputError(
            f"{str(file)!r} holds labels of other images. Give the same images to go on with them, or another folder, or "
            "delete it"
        )
    counts = facts.get("counts")
    if not isinstance(counts, list) or len(counts) != len(names):
        raise InputError(f"{str(file)!r} is damaged: it does not tell how many crops its images have; delete it")
    return tuple(counts)


def open_shard(file: Path, rows: int, kind: LabelKind, num_classes: int) -> Shard:
    """Map a file of `rows` crops into memory; raise `InputError` where it is damaged or holds anything else."""
    tensors = _open(file)[0]
    width = kind.kept or num_classes
    wanted: dict[str, tuple[int, ...]] = {"coords": (rows, 4), "flips": (rows,)}
    if kind is not LabelKind.ORI:
        wanted["classes"] = (rows, width)
    if kind is not LabelKind.HARD:
        wanted["probabilities"] = (rows, width)
    found = {name: tuple(t.shape) for name, t in sorted(tensors.items())}
    if found != wanted:
        raise InputError(
            f"{str(file)!r} is not the file that its folder's index tells of: expected {wanted}, found {found}"
        )
    return Shard(tensors["coords"], tensors["flips"], tensors.get("classes"), tensors.get("probabilities"))


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file; the tensors stay on disk until they are read."""
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            text = (opened.metadata() or {}).get(_KIND)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(text) if text is not None else None
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot read {str(file)!r} as a file of labels: {error}; if it is damaged, delete it"
        ) from error
    if not isinstance(facts, dict):
        raise InputError(f"{str(file)!r} is a safetensors file, but none of labels: it lacks {_KIND!r}")
    return tensors, facts


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:32]
