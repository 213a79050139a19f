"""Other engines that run a model on few bits on a GPU, each where its packages are installed and the GPU has the units."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.kernels.float8 import CAPABILITY as FLOAT8
from fxquant.kernels.triton import CAPABILITY as INT8

Build = Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]


@dataclass(frozen=True)
class Rival:
    """
    One engine.

    needs: the packages that it imports. capability: the compute capability from which on a GPU has its units. build: make a
    call of the bfloat16 model, on the GPU, and of images of the size that will run.
    """

    name: str
    needs: tuple[str, ...]
    capability: tuple[int, int]
    build: Build

    def obstacle(self) -> str | None:
        """Return why it cannot run here, None where it can."""
        missing = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        found, wanted = torch.cuda.get_device_capability(), self.capability
        return (
            None
            if found >= wanted
            else f"expected compute capability {wanted[0]}.{wanted[1]}, found {found[0]}.{found[1]}"
        )


def _torchao(config: str, **options: Any) -> Build:
    """Return what converts a model's linear layers by a config of torchao, and compiles it."""

    def build(model: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
        quantization: Any = importlib.import_module("torchao.quantization")
        made = {name: getattr(quantization, value)() for name, value in options.items()}
        quantization.quantize_(model, getattr(quantization, config)(**made))
        compiled: Callable[[Tensor], Any] = torch.compile(model, mode="max-autotune")
        return compiled

    return build


def _tensorrt(config: str, precision: torch.dtype) -> Build:
    """Return what calibrates a model with ModelOpt, by one of its configs, and compiles it with Torch-TensorRT."""

    def build(model: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
        modelopt: Any = importlib.import_module("modelopt.torch.quantization")
        utils: Any = importlib.import_module("modelopt.torch.quantization.utils")
        tensorrt: Any = importlib.import_module("torch_tensorrt")
        modelopt.quantize(model, getattr(modelopt, config), forward_loop=lambda net: net(images))
        with torch.no_grad(), utils.export_torch_mode():
            exported = torch.export.export(model, (images,), strict=False)
            engine: Callable[[Tensor], Any] = tensorrt.dynamo.compile(
                exported, inputs=[images], enabled_precisions={precision, torch.bfloat16}, min_block_size=1
            )
        return engine

    return build


RIVALS = (
    Rival("torchao int8", ("torchao",), INT8, _torchao("Int8DynamicActivationInt8WeightConfig")),
    Rival(
        "torchao float8",
        ("torchao",),
        FLOAT8,
        _torchao("Float8DynamicActivationFloat8WeightConfig", granularity="PerRow"),
    ),
    Rival("TensorRT int8", ("modelopt", "torch_tensorrt"), INT8, _tensorrt("INT8_DEFAULT_CFG", torch.int8)),
    Rival("TensorRT float8", ("modelopt", "torch_tensorrt"), FLOAT8, _tensorrt("FP8_DEFAULT_CFG", torch.float8_e4m3fn)),
)
