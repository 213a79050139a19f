"""The subject of a measurement: one float model, its calibration images, and fxquant's config for it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import InputError


class Subject:
    """
    A float32 model in eval mode, of which every competitor gets a copy.

    calibration: images ``(N, C, H, W)`` float32 on the CPU, the same for every competitor that calibrates.
    config: the config of the fxquant forms.
    memory: the bytes that a search for scales may hold; None is the default of `fxquant.calibrate`.

    Raises `InputError` where there are no calibration images.
    """

    has_float = True

    def __init__(
        self,
        model: nn.Module,
        calibration: Tensor,
        config: QuantConfig,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        memory: int | None = None,
    ) -> None:
        if not len(calibration):
            raise InputError("a benchmark of int8 needs at least one calibration image, got none")
        self.device = torch.device(device)
        self.calibration = calibration
        self.config = config
        self.seed = seed
        self.memory = memory
        self._model = model.eval()
        self._quantized: dict[torch.dtype, fx.GraphModule] = {}

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return a copy of the float model on the device in `dtype`."""
        return copy.deepcopy(self._model).to(device=self.device, dtype=dtype)

    def reference(self) -> nn.Module:
        """Return the model whose outputs are those that all others should give."""
        return self.model()

    def quantized(self, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
        """Return a copy of the int8 model, whose rest computes in `dtype`. It is calibrated once per dtype."""
        if dtype not in self._quantized:
            batches = [batch.to(device=self.device, dtype=dtype) for batch in self.calibration.split(32)]
            torch.manual_seed(self.seed)
            prepared = fxquant.prepare(self.model(dtype), self.config, batches[0])
            limits = {} if self.memory is None else {"memory": self.memory}
            fxquant.calibrate(prepared, batches, progress=False, seed=self.seed, **limits)
            self._quantized[dtype] = fxquant.convert(prepared)
        return copy.deepcopy(self._quantized[dtype])

    def batches(self, size: int) -> list[Tensor]:
        """Return the calibration images in batches of exactly `size`, for engines with a fixed batch; some may repeat."""
        count = -(-len(self.calibration) // size) * size
        repeats = -(-count // len(self.calibration))
        images: Tensor = self.calibration.repeat(repeats, 1, 1, 1)[:count]
        return list(images.split(size))


class SavedSubject(Subject):
    """A quantised graph without the float model that it was made of: it is compared with itself, as torch runs it eagerly."""

    has_float = False

    def __init__(self, gm: fx.GraphModule, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._gm = gm.eval()

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Raise `InputError`."""
        raise InputError("a saved model has no float model to compare with")

    def reference(self) -> nn.Module:
        """Return a copy of the graph."""
        return copy.deepcopy(self._gm)

    def quantized(self, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
        """Return a copy of the graph, whose rest computes in the dtype that it was saved in."""
        return copy.deepcopy(self._gm)
