"""Open a folder of labels, packed or as published."""

from __future__ import annotations

import os
from pathlib import Path

from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.manifest import MANIFEST
from fxquant.distillation.packed import PackedLabels
from fxquant.distillation.published import SUFFIX, PublishedLabels
from fxquant.distillation.shards import PATTERN
from fxquant.distillation.source import LabelSource
from fxquant.errors import InputError


def open_labels(
    folder: str | os.PathLike[str], kind: LabelKind | str | None = None, num_classes: int | None = None
) -> LabelSource:
    """
    Open the labels in `folder`, packed or as published.

    kind, num_classes: the kind and the number of classes of the labels. Packed labels know both, and None takes theirs.
    Published labels need both.

    Raises `ConfigError` for an unknown kind, `InputError` where the folder holds no labels, or labels of another kind.
    """
    root, chosen = Path(folder), None if kind is None else LabelKind(kind)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"expected a folder of labels, {str(root)!r} {what}")
    if (root / MANIFEST).exists():
        return PackedLabels(root, chosen, num_classes)
    if any(root.glob(PATTERN)):
        raise InputError(
            f"the labels in {str(root)!r} are not complete: {MANIFEST!r} is written last. Run the command that makes them again"
        )
    entries = list(os.scandir(root))
    if not any(entry.is_dir() or entry.name.endswith(SUFFIX) for entry in entries):
        raise InputError(
            f"expected packed labels ({MANIFEST}) or published ones (folders of {SUFFIX} files) in {str(root)!r}, "
            f"found {len(entries)} other files"
        )
    if chosen is None or num_classes is None:
        raise InputError(
            f"published labels such as {str(root)!r} do not tell their kind and number of classes: give both"
        )
    return PublishedLabels(root, chosen, num_classes)
