"""A teacher, and which part of its answers is kept."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.data.data_config import DataConfig
from fxquant.distillation.cutting import check_interpolation, normalise
from fxquant.distillation.label_kind import LabelKind
from fxquant.distillation.soft_targets import SoftTargets
from fxquant.errors import InputError
from fxquant.graph.fingerprint import fingerprint


class Teacher:
    """
    A model in eval mode on `device` that answers in labels of `kind`; its mode is restored at the end of the context.

    data_config: the size, interpolation and normalisation of its images.

    Raises `InputError` where the model does not return logits ``(B, C)`` of enough classes for images of that size, and
    `ConfigError` for an unknown interpolation.
    """

    def __init__(self, model: nn.Module, data_config: DataConfig, kind: LabelKind, device: torch.device) -> None:
        channels, height, width = data_config.input_size
        if channels != 3:
            raise InputError(f"expected a teacher of RGB images, its data config has {channels} channels")
        if height != width:
            raise InputError(f"expected a teacher of square images, its data config has {height} x {width}")
        self.interpolation = data_config.interpolation
        check_interpolation(self.interpolation)
        self.size = height
        self.mean, self.std = data_config.mean, data_config.std
        self.kind = kind
        self.device = device
        self._training = model.training
        self._model = model.to(device).eval()
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.num_classes = self._probe()

    def __enter__(self) -> Teacher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._model.train(self._training)

    def settings(self) -> dict[str, Any]:
        """Return what the answers depend on, besides the crops."""
        normalisation = {"mean": list(self.mean), "std": list(self.std)}
        return {"teacher": fingerprint(self._model), "dtype": str(self._dtype), **normalisation}

    def answer(self, pixels: Tensor) -> SoftTargets:
        """
        Return the part of the answers that is kept, for crops ``(R, 3, S, S)`` uint8, on the CPU.

        Raises `InputError` where the answers are not finite.
        """
        p = self._logits(pixels).float().softmax(1)
        if not bool(p.isfinite().all()):
            raise InputError(f"the teacher's logits are not finite; it computes in {self._dtype}, try float32")
        if self.kind is LabelKind.ORI:
            classes = torch.empty(len(p), 0, dtype=torch.int64)
            return SoftTargets(classes, p.cpu(), self.num_classes, self.kind)
        top = p.topk(self.kind.kept, dim=1)
        kept = torch.ones_like(top.values) if self.kind is LabelKind.HARD else top.values
        return SoftTargets(top.indices.cpu(), kept.cpu(), self.num_classes, self.kind)

    def _logits(self, pixels: Tensor) -> Any:
        with torch.inference_mode():
            images = normalise(pixels.to(self.device, non_blocking=True), self.mean, self.std)
            return self._model(images.to(self._dtype))

    def _probe(self) -> int:
        """Run the model on one batch, and return its number of classes."""
        logits = self._logits(torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8))
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"expected a teacher that returns logits (B, C), found {found}")
        classes = logits.shape[1]
        if classes < max(1, self.kind.kept):
            raise InputError(f"{self.kind.value} labels keep {self.kind.kept} classes, the teacher has {classes}")
        return int(classes)
