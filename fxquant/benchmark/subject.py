"""The subject of a measurement: one float model, its calibration images, and fxquant's config for it."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from pathlib import Path

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

    The int8 models lie in files, as those of who serves them do, and not in the memory that engines are measured by.

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
        self._folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return a copy of the float model on the device in `dtype`."""
        return copy.deepcopy(self._model).to(device=self.device, dtype=dtype)

    def reference(self) -> nn.Module:
        """Return the model whose outputs are those that all others should give."""
        return self.model()

    def file(self, dtype: torch.dtype = torch.float32) -> Path:
        """Return the file of the int8 model, whose rest computes in `dtype`. It is calibrated once per dtype."""
        path = self._folder / f"{dtype}.safetensors"
        if not path.exists():
            batches = [batch.to(device=self.device, dtype=dtype) for batch in self.calibration.split(32)]
            torch.manual_seed(self.seed)
            prepared = fxquant.prepare(self.model(dtype), self.config, batches[0])
            limits = {} if self.memory is None else {"memory": self.memory}
            fxquant.calibrate(prepared, batches, progress=False, seed=self.seed, **limits)
            fxquant.save(fxquant.convert(prepared), path)
        return path

    def quantized(self, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
        """Return the int8 model in `file`."""
        gm: fx.GraphModule = fxquant.load(self.file(dtype), self.device).eval()
        return gm

    def batches(self, size: int) -> list[Tensor]:
        """Return the calibration images in batches of exactly `size`, for engines with a fixed batch; some may repeat."""
        count = -(-len(self.calibration) // size) * size
        repeats = -(-count // len(self.calibration))
        images: Tensor = self.calibration.repeat(repeats, 1, 1, 1)[:count]
        return list(images.split(size))


class SavedSubject(Subject):
    """A quantised file without the float model that it was made of: it is compared with itself, as torch runs it eagerly."""

    has_float = False

    def __init__(self, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._path = Path(path)

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Raise `InputError`."""
        raise InputError("a saved model has no float model to compare with")

    def reference(self) -> nn.Module:
        """Return the graph in the file."""
        return self.quantized()

    def file(self, dtype: torch.dtype = torch.float32) -> Path:
        """Return the file, whose rest computes in the dtype that it was saved in."""
        return self._path
