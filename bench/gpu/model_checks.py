"""Whether whole models compute the same on a GPU in all ways that they can run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, fx

import fxquant
from bench.gpu import operands
from bench.gpu.comparison import TILE, one_tile
from fxquant import pipeline
from fxquant.compiling.choose_triton import slower_sites
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend

MOST = 0.1  # of the relative error between two ways, which differ in roundings at the edges of codes


class CheckedModel(NamedTuple):
    """A recipe with its options; thorough: it is compiled, and its layers given back to float, which takes most of the time."""

    dtype: torch.dtype
    recipe: str
    options: Mapping[str, Any]
    thorough: bool

    def __str__(self) -> str:
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.recipe}{options} {str(self.dtype).removeprefix('torch.')}"


# One recipe for each kind of product and of fold.
MODELS = (
    CheckedModel(torch.bfloat16, "minmax", {}, True),
    CheckedModel(torch.float32, "default", {}, True),
    CheckedModel(torch.bfloat16, "dynamic", {"symmetric": True}, False),
    CheckedModel(torch.float32, "ptq4vit", {}, False),
    CheckedModel(torch.float32, "noisyquant", {}, False),
    CheckedModel(torch.float32, "adalog", {"softmax": True, "gelu": True}, False),
    CheckedModel(torch.bfloat16, "erq", {}, False),
    CheckedModel(torch.float32, "repq", {}, False),
    CheckedModel(torch.bfloat16, "rotate", {}, False),
    CheckedModel(torch.float32, "fqvit", {}, False),
)
FLOAT8_MODELS = (
    CheckedModel(torch.bfloat16, "minmax", {"codes": "e4m3", "patch_embed": True}, True),
    CheckedModel(torch.float32, "default", {"codes": "e4m3"}, True),
)


def check_models() -> Iterator[str | None]:
    """Small models agree on all ways they can run: eager, compiled and recorded, torch's operators, layers in float."""
    for model in MODELS:
        yield from _check(model)


def check_float8_models() -> Iterator[str | None]:
    """So do models on float8 codes."""
    for model in FLOAT8_MODELS:
        yield from _check(model)


def _check(model: CheckedModel) -> Iterator[str | None]:
    gm, batches = small_model(model)
    with torch.no_grad(), use_backend("aten"):
        expected = [gm(x).float() for x in batches]
    gm, batches = gm.to(operands.DEVICE), [x.to(operands.DEVICE) for x in batches]
    for name, run in _ways(gm, batches[0], model).items():
        tile: AbstractContextManager[None] = nullcontext() if name == "compiled" else one_tile(TILE)
        backend = "aten" if name == "torch's operators" else "auto"
        # Recorded graphs keep their results in one place: two batches show whether one overwrites the other.
        with torch.no_grad(), tile, use_backend(backend):
            found = [run(x).float().cpu().clone() for x in (*batches, *batches)][2:]
        errors = [float((f - e).norm() / e.norm()) for f, e in zip(found, expected, strict=True)]
        yield None if max(errors) < MOST else f"{model} {name}: relative errors {errors}"
    torch.compiler.reset()


def _ways(gm: fx.GraphModule, images: Tensor, model: CheckedModel) -> dict[str, Callable[[Tensor], Tensor]]:
    ways: dict[str, Callable[[Tensor], Tensor]] = {"eager": gm, "torch's operators": gm}
    if not model.thorough:
        return ways
    with one_tile(TILE):
        slow = pipeline.compile_for_cuda(slower_sites(gm, (images,), margin=1e9))
    parts = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    parts.meta = dict(gm.meta)
    return ways | {"compiled": fxquant.compile(gm), "in float": pipeline.run(parts, slow, Stage.LOWERED)}


def small_model(model: CheckedModel) -> tuple[fx.GraphModule, list[Tensor]]:
    """Return a converted ViT-Ti of two blocks and two batches ``(3, 3, 64, 64)``, on the CPU."""
    torch.manual_seed(0)
    options = {"img_size": 64, "depth": 2, "num_classes": 16}
    net = timm.create_model("vit_tiny_patch16_224", **options).eval().to(model.dtype)
    batches = [torch.randn(3, 3, 64, 64).to(model.dtype) for _ in range(2)]
    prepared = fxquant.prepare(net, fxquant.recipe(model.recipe, **model.options), batches[0])
    return fxquant.convert(fxquant.calibrate(prepared, batches, progress=False)), batches
