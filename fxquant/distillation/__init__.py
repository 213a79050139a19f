"""
Distillation from stored labels: several crops of each image, and a teacher's answer to each.

A name is fetched from its module where it is first used, as the command line needs `LabelKind` alone, and not torch.
"""

from typing import TYPE_CHECKING

from fxquant.lazy import fetch_from

if TYPE_CHECKING:
    from fxquant.distillation.crops import MultiCropImages, checked_batches, collate
    from fxquant.distillation.label_folder import open_labels
    from fxquant.distillation.label_kind import LabelKind
    from fxquant.distillation.label_packing import pack_labels
    from fxquant.distillation.loss import soft_cross_entropy
    from fxquant.distillation.soft_targets import SoftTargets, concatenate
    from fxquant.distillation.source import CropLabels, LabelSource
    from fxquant.distillation.teacher_labels import make_labels

__all__ = [
    "CropLabels",
    "LabelKind",
    "LabelSource",
    "MultiCropImages",
    "SoftTargets",
    "checked_batches",
    "collate",
    "concatenate",
    "make_labels",
    "open_labels",
    "pack_labels",
    "soft_cross_entropy",
]
_HOMES = {
    "crops": "MultiCropImages checked_batches collate",
    "label_folder": "open_labels",
    "label_kind": "LabelKind",
    "label_packing": "pack_labels",
    "loss": "soft_cross_entropy",
    "soft_targets": "SoftTargets concatenate",
    "source": "CropLabels LabelSource",
    "teacher_labels": "make_labels",
}

if not TYPE_CHECKING:  # else every misspelt name would have a type
    __getattr__ = fetch_from(__name__, _HOMES)
