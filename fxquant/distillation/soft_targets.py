"""The soft targets of a batch of crops, as compact as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.distillation.label_kind import LabelKind
from fxquant.errors import InputError


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """
    A teacher's answers to R crops, over C = `num_classes` classes.

    classes: ``(R, k)`` int64, or ``(R, 0)`` where `kind` is ORI.
    probabilities: as stored, ``(R, k)`` float32, or ``(R, C)`` where `kind` is ORI. They are ones where `kind` is HARD.

    Raises `InputError` for other shapes.
    """

    classes: Tensor
    probabilities: Tensor
    num_classes: int
    kind: LabelKind

    def __post_init__(self) -> None:
        """Raise `InputError` for tensors that do not belong together."""
        width = self.kind.kept or self.num_classes
        rows = len(self.probabilities) if self.probabilities.dim() else 0
        wanted = (rows, self.kind.kept), (rows, width)
        found = tuple(self.classes.shape), tuple(self.probabilities.shape)
        if found != wanted:
            raise InputError(
                f"{self.kind.value} targets of {self.num_classes} classes: expected classes {wanted[0]} and probabilities "
                f"{wanted[1]}, found {found[0]} and {found[1]}"
            )
        if self.kind.kept > self.num_classes:
            raise InputError(
                f"{self.kind.value} targets hold {self.kind.kept} classes each, there are only {self.num_classes}"
            )

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> SoftTargets:
        """Return the targets of some crops, given by a slice, a tensor of indices or a list."""
        return SoftTargets(self.classes[rows], self.probabilities[rows], self.num_classes, self.kind)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SoftTargets:
        """Return the targets on `device`."""
        classes = self.classes.to(device, non_blocking=non_blocking)
        probabilities = self.probabilities.to(device, non_blocking=non_blocking)
        return SoftTargets(classes, probabilities, self.num_classes, self.kind)

    def pin_memory(self) -> SoftTargets:
        """Return the targets in page-locked memory; a `DataLoader` with ``pin_memory`` calls this."""
        return SoftTargets(self.classes.pin_memory(), self.probabilities.pin_memory(), self.num_classes, self.kind)

    def weights(self) -> tuple[Tensor, Tensor]:
        """
        Return two tensors: the weights ``(R, k)`` of the stored classes, and the weight ``(R, 1)`` of each other class.

        For ORI these are the weights ``(R, C)`` of all classes in order, and zeros.
        """
        top, others = self.probabilities, self.num_classes - self.kind.kept
        mass = top.sum(1, keepdim=True)
        if self.kind is LabelKind.MARGINAL_RENORM:
            return top / mass.clamp_min(1e-12), torch.zeros_like(mass)
        if not self.kind.spreads_rest or not others:
            return top, torch.zeros_like(mass)
        return top, (1 - mass) / others

    def dense(self, num_classes: int | None = None) -> Tensor:
        """
        Return the targets as distributions ``(R, C)`` float32.

        Raises `InputError` where `num_classes` is given and is not that of the targets.
        """
        if num_classes not in (None, self.num_classes):
            raise InputError(f"expected targets of {num_classes} classes, these are of {self.num_classes}")
        top, rest = self.weights()
        if self.kind is LabelKind.ORI:
            return top
        return rest.expand(-1, self.num_classes).scatter(1, self.classes, top)


def concatenate(targets: Sequence[SoftTargets]) -> SoftTargets:
    """
    Return the targets of all crops in order.

    Raises `InputError` where there are none, or where kinds or numbers of classes differ.
    """
    found = {(t.kind, t.num_classes) for t in targets}
    if len(found) != 1:
        names = ", ".join(sorted(f"{kind.value} of {count} classes" for kind, count in found))
        raise InputError(f"expected targets of one kind and number of classes, found {names or 'none'}")
    ((kind, num_classes),) = found
    return SoftTargets(
        torch.cat([t.classes for t in targets]), torch.cat([t.probabilities for t in targets]), num_classes, kind
    )
