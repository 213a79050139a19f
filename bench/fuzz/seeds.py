"""The checkpoints that a fuzzer changes: small models at every stage, by every kind of quantiser and of capture."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant

SIZE = 32


class ConvNet(nn.Module):
    """Two convolutions and a linear head on the mean of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, 2, padding=1), nn.Conv2d(8, 16, 2, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, 5)`` of images ``(B, 3, H, W)``."""
        y: Tensor = self.head(torch.relu(self.down(torch.relu(self.stem(x)))).mean((2, 3)))
        return y


class Mixture(nn.Module):
    """A linear layer among operators that read indices, sizes and parts, and give several values."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table, self.norm = nn.Linear(32, 32), nn.Embedding(9, 32), nn.BatchNorm2d(3)
        self.register_buffer("index", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return tokens, classes and the largest values of images ``(B, 3, 32, 32)``."""
        y = self.layer(self.norm(x)[:, self.index])
        y = F.interpolate(F.pad(y, (1, 1, 2, 2)), (16, 16), mode="bilinear") ** 2
        y = F.avg_pool2d(y, 2).flatten(2).repeat(1, 1, 2) * y.shape[-1] ** -0.5
        tokens = torch.cat([y.reshape(y.size(0), -1, 32), self.table(self.index).expand(y.size(0), -1, -1)], 1)
        scores = torch.einsum("bnc,bmc->bnm", tokens, tokens).softmax(-1)
        values, places = scores.topk(2, -1)
        return {"tokens": scores @ tokens, "places": torch.gather(scores, 2, places), "values": values.cumsum(1)}


class Branching(nn.Module):
    """A layer that asks its input for its size, which only `torch.export` follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 16)`` for images ``(B, 3, 32, 32)``."""
        y = self.layer(x).relu()
        if y.shape[-1] > 8:
            y = y.roll(1, -1)
        mean: Tensor = y.mean((1, 2))
        return mean


def make_seeds(folder: Path) -> list[Path]:
    """Write the seeds to `folder`, unless they are there already, and return their files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, gm in _graphs():
        file = folder / f"{name}.safetensors"
        if not file.exists():
            fxquant.save(gm, file)
    return sorted(folder.glob("*.safetensors"))


def images() -> Tensor:
    """Return the batch that all seeds take."""
    batch: Tensor = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return batch


def _vit(**options: Any) -> nn.Module:
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2} | options
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=10, **sizes)
    return model.eval()


def _swin() -> nn.Module:
    sizes: dict[str, Any] = {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2,), "num_heads": (2,)}
    model: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", img_size=SIZE, num_classes=10, **sizes)
    return model.eval()


def _graphs() -> Iterator[tuple[str, fx.GraphModule]]:
    for name, model in (("conv", ConvNet()), ("vit", _vit()), ("mixture", Mixture()), ("branching", Branching())):
        yield from _stages(name, model.eval(), "minmax")
    for recipe in ("ptq4vit", "noisyquant_ptq4vit", "vvtq"):
        yield from _stages(f"vit_{recipe}", _vit(), recipe, first=2)
    for recipe in ("fqvit", "psaq"):
        yield from _stages(f"swin_{recipe}", _swin(), recipe, first=2)
    for name, example in (("float_alone", None), ("bfloat16", images().bfloat16())):
        model = ConvNet().eval() if example is None else _vit().bfloat16()
        yield f"{name}", fxquant.trace(model, example)
    yield "w4a4", fxquant.quantize(_vit(), [images()], recipe="minmax", w_bits=4, a_bits=4, attention=True)
    yield "fused", fxquant.quantize(_vit(num_heads=2, embed_dim=64), [images()], recipe="minmax")
    yield "swin", fxquant.quantize(_swin(), [images()], recipe="minmax")
    yield (
        "free_sizes",
        fxquant.quantize(_vit(dynamic_img_size=True), [images()], recipe="minmax", dynamic=("height", "width")),
    )


def _stages(name: str, model: nn.Module, recipe: str, first: int = 0) -> Iterator[tuple[str, fx.GraphModule]]:
    """Yield `model` traced, prepared, calibrated, and converted both ways; from the stage `first` on."""
    gm = fxquant.trace(model, images())
    prepared = fxquant.prepare(gm, fxquant.recipe(recipe))
    graphs = [gm, copy.deepcopy(prepared), fxquant.calibrate(prepared, [images()], progress=False)]
    graphs += [fxquant.convert(prepared, "fake"), fxquant.convert(prepared)]
    names = ("float", "prepared", "calibrated", "fake", "int8")
    yield from ((f"{name}_{stage}", graph) for stage, graph in list(zip(names, graphs, strict=True))[first:])
