"""Cross entropy with soft targets that are never expanded to all classes."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.soft_targets import SoftTargets
from fxquant.errors import InputError


def soft_cross_entropy(logits: Tensor, targets: SoftTargets) -> Tensor:
    """
    Return the mean over rows of -sum_c p_c log softmax(logits)_c, a scalar, computed in float32 at least.

    logits: ``(R, C)``.

    A target stores weights p for k classes, and one weight r for each of the others. With q the softmax of the logits, the
    sum is that of (p - r) log q over the k classes, plus r times the sum of log q over all C.

    Raises `InputError` where the rows or classes are not those of the targets, and where there are no rows.
    """
    if not len(targets) or logits.shape != (len(targets), targets.num_classes):
        raise InputError(
            f"expected logits of shape {(len(targets) or 'rows', targets.num_classes)} for {len(targets)} targets of "
            f"{targets.num_classes} classes, found {tuple(logits.shape)}"
        )
    log_q = torch.log_softmax(logits if logits.dtype is torch.float64 else logits.float(), 1)
    top, rest = targets.weights()
    if targets.kind is LabelKind.ORI:
        return -(top * log_q).sum(1).mean()
    spread = rest.squeeze(1) * log_q.sum(1) if targets.kind.spreads_rest else 0.0
    return -(((top - rest) * log_q.gather(1, targets.classes)).sum(1) + spread).mean()
