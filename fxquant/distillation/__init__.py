"""Distillation from stored labels: several crops of each image, and a teacher's answer to each."""

from fxquant.distillation.crops import MultiCropImages, checked_batches
from fxquant.distillation.label_folder import open_labels
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.label_packing import pack_labels
from fxquant.distillation.loss import soft_cross_entropy
from fxquant.distillation.soft_targets import SoftTargets, concatenate
from fxquant.distillation.source import CropLabels, LabelSource
from fxquant.distillation.teacher_labels import make_labels

collate = MultiCropImages.collate

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
