"""Whether the kernels for GPUs compute what torch's operators do on the same device; `bench.gpu` runs this first."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import timm
import torch
from torch import Tensor, fx

import fxquant
from fxquant import ops, pipeline
from fxquant.compiling.choose_triton import slower_sites
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.kernels.cpu import Quantizer
from fxquant.kernels.triton import batched, gemm, layer_norm, quantize

FLOATS = (torch.float32, torch.bfloat16)
# Rows, depth and outputs of layers in ViT-B, ViT-L, DeiT-S and Swin-T, and of none.
LAYERS = (
    *((1, 768, 1000), (197, 768, 2304), (1576, 3072, 768), (197, 1024, 4096), (394, 384, 1536)),
    *((3136, 48, 96), (3136, 96, 288), (784, 192, 768), (37, 56, 24), (16, 8, 8)),
)
QUANTIZERS = ("signed", "unsigned", "gelu")
TILE = 4  # the tile that is checked most: 128 x 128 sums for linear layers
RARELY = 2e-3  # how often another rounding of a function may give the code next to the right one


def run_checks() -> str | None:
    """Run every check, one line each; return what is wrong with the first that fails, None where all pass."""
    for name, check in CHECKS.items():
        count = 0
        for problem in _with_one_tile(check):
            count += 1
            if problem is not None:
                print(f"FAILED  {name}: {problem}", flush=True)
                return f"{name}: {problem}"
        print(f"ok      {name}: {count} cases", flush=True)
    return None


@contextmanager
def one_tile(index: int) -> Iterator[None]:
    """Let each kernel use the tile at `index` of those it chooses from: to choose takes longer than to check."""
    tuners = (gemm.gemm, batched.batched, layer_norm.layer_norm, quantize.quantize_values)
    known = [tuner.configs for tuner in tuners]
    try:
        for tuner, configs in zip(tuners, known, strict=True):
            tuner.configs = [configs[index % len(configs)]]
        yield
    finally:
        for tuner, configs in zip(tuners, known, strict=True):
            tuner.configs = configs


def check_tiles() -> Iterator[str | None]:
    """Every tile gives the same result."""
    codes, weight, scale, bias = _layer(300, 336, 272)
    q = _quantizer("signed", None)
    for index in range(len(gemm.CONFIGS)):
        with one_tile(index):
            arguments = (codes, weight, scale, bias, None, None, torch.bfloat16, True)
            yield _differ(ops.int8_linear, arguments, f"product, {gemm.CONFIGS[index]}")
    for index in range(6):
        with one_tile(index):
            x = torch.randn(197, 1000, device="cuda")
            yield _differ(ops.quantize, (x, q.scale, None, q.qmin, q.qmax), f"codes, tile {index}")
            norm = (x, None, None, 1e-6, q.scale, None, q.qmin, q.qmax)
            yield _differ(ops.layer_norm_quantize, norm, f"layer norm, tile {index}", RARELY)
            a, b = _codes(6, 197, 64), _codes(6, 197, 64).mT
            yield _differ(ops.int8_matmul, (a, b, scale[0], None, None, torch.bfloat16), f"matmul, tile {index}")


def check_linear() -> Iterator[str | None]:
    """Product, scale, bias and residual give the same bits."""
    for shape, dtype, twin, residual in itertools.product(LAYERS, FLOATS, (False, True), (False, True)):
        codes, weight, scale, bias = _layer(*shape)
        added = (torch.randn(shape[0], shape[2], device="cuda").to(dtype),) if residual else ()
        if twin:
            function: Any = ops.int8_linear_twin_add if residual else ops.int8_linear_twin
            arguments: tuple[Any, ...] = (codes, weight, scale, scale / 7, bias, *added, dtype, True)
        elif residual:
            function, arguments = ops.int8_linear_add, (codes, weight, scale, bias, *added, dtype, True)
        else:
            function, arguments = ops.int8_linear, (codes, weight, scale, bias, None, None, dtype, True)
        yield _differ(function, arguments, f"{shape} {dtype} twin={twin} residual={residual}")


def check_gelu() -> Iterator[str | None]:
    """Codes behind GELU are the same but for roundings of the error function."""
    for shape, dtype, approximate, kind in itertools.product(LAYERS[::3], FLOATS, ("none", "tanh"), QUANTIZERS):
        quantizer = _quantizer(kind, shape[2])
        arguments = (*_layer(*shape), approximate, dtype, True)
        if quantizer.low is None:
            function: Any = ops.int8_linear_gelu_quantize
            last: tuple[Any, ...] = (
                quantizer.scale,
                quantizer.zero_point,
                quantizer.qmin,
                quantizer.qmax,
                quantizer.noise,
            )
        else:
            function, last = (
                ops.int8_linear_gelu_quantize_twin,
                (quantizer.scale, *quantizer[2:4], *quantizer[5:], quantizer.noise),
            )
        yield _differ(function, (*arguments, *last), f"{shape} {dtype} {approximate} {kind}", RARELY)


def check_layer_norm() -> Iterator[str | None]:
    """Codes of layer norms are the same but for roundings."""
    for (rows, width), dtype, noise in itertools.product(
        ((197, 768), (65, 1024), (3137, 96), (7, 50)), FLOATS, (False, True)
    ):
        q = _quantizer("unsigned", width if noise else None)
        x = (torch.randn(rows, width, device="cuda") * 2 + 1).to(dtype)
        weight, bias = torch.randn(2, width, device="cuda").unbind()
        arguments = (x, weight, bias, 1e-6, q.scale, q.zero_point, q.qmin, q.qmax, q.noise)
        yield _differ(ops.layer_norm_quantize, arguments, f"{rows} x {width} {dtype} noise={noise}", RARELY)


def check_quantize() -> Iterator[str | None]:
    """Codes are the same, next to every boundary too."""
    for kind, dtype, noise in itertools.product((*QUANTIZERS, "softmax"), FLOATS, (False, True)):
        q = _quantizer(kind, 600 if noise else None)
        ties = (torch.arange(-300, 300, device="cuda") + 0.5) * q.scale
        near = [ties, ties.nextafter(ties + 1), ties.nextafter(ties - 1), torch.randn(600, device="cuda")]
        x = torch.stack(near).to(dtype)
        if q.low is None:
            yield _differ(ops.quantize, (x, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise), f"{kind} {dtype}")
        else:
            yield _differ(ops.quantize_twin, (x, q.scale, *q[2:4], *q[5:], q.noise), f"{kind} {dtype}")


def check_matmul() -> Iterator[str | None]:
    """Products of activations give the same bits, whatever the zero points."""
    per_head = torch.randint(-128, 128, (4, 1, 1), dtype=torch.int32, device="cuda")
    one = torch.tensor(-7, dtype=torch.int32, device="cuda")
    pairs = ((None, None), (one, per_head), (per_head, one))
    for dtype, tokens, (zero_a, zero_b) in itertools.product(FLOATS, (197, 49), pairs):
        q, k, v = _codes(2, tokens, 3, 4, 64).permute(2, 0, 3, 1, 4).unbind(0)
        p, scale = _codes(2, 4, tokens, tokens), torch.rand(4, 1, 1, device="cuda") / 1000
        for a, b in ((q, k.transpose(-2, -1)), (p, v)):
            yield _differ(ops.int8_matmul, (a, b, scale, zero_a, zero_b, dtype), f"{tuple(a.shape)} {dtype}")
        yield _differ(ops.int8_matmul_twin, (p, v, scale, -scale / 9, zero_b, dtype), f"twin {tuple(p.shape)} {dtype}")


def check_models() -> Iterator[str | None]:
    """Small models agree on all ways they can run: eager, compiled and recorded, torch's operators, layers in float."""
    for dtype, recipe in ((torch.bfloat16, "minmax"), (torch.float32, "ptq4vit"), (torch.float32, "default")):
        gm, batches = _small_model(dtype, recipe)
        with one_tile(TILE):
            slow = pipeline.compile_for_cuda(slower_sites(gm, (batches[0],), margin=1e9))
        parts = fx.GraphModule(gm, copy.deepcopy(gm.graph))
        parts.meta = dict(gm.meta)
        ways = {
            "eager": gm,
            "compiled": fxquant.compile(gm),
            "in float": pipeline.run(parts, slow, Stage.LOWERED),
        }
        with torch.no_grad():
            with use_backend("aten"):
                expected = [gm(x) for x in batches]
            for name, run in ways.items():
                # Recorded graphs keep their results in one place: two batches show whether one overwrites the other.
                with nullcontext() if name == "compiled" else one_tile(TILE):
                    found = [run(x).clone() for x in (*batches, *batches)][2:]
                errors = [
                    float((f - e).float().norm() / e.float().norm()) for f, e in zip(found, expected, strict=True)
                ]
                yield f"{recipe} {dtype} {name}: relative errors {errors}" if not max(errors) < 0.1 else None
        torch.compiler.reset()


def _with_one_tile(check: Callable[[], Iterator[str | None]]) -> Iterator[str | None]:
    if check in (check_tiles, check_models):
        yield from check()
    else:
        with one_tile(TILE):
            yield from check()


CHECKS: dict[str, Callable[[], Iterator[str | None]]] = {
    "tiles": check_tiles,
    "linear layers": check_linear,
    "GELU and codes": check_gelu,
    "layer norm and codes": check_layer_norm,
    "codes": check_quantize,
    "products of activations": check_matmul,
    "models": check_models,
}


def _differ(function: Any, arguments: tuple[Any, ...], case: str, rate: float = 0.0) -> str | None:
    """Compare the kernel with torch's operators; codes may be off by one at the given rate."""
    found = function(*arguments)
    with use_backend("aten"):
        expected = function(*arguments)
    if found.dtype is not expected.dtype or found.shape != expected.shape:
        return f"{case}: {found.dtype} {tuple(found.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
    wrong = (found != expected).float().mean().item()
    largest = (found.double() - expected.double()).abs().max().item()
    allowed = wrong <= rate and (largest <= 1 or rate == 0.0)
    return None if allowed else f"{case}: {wrong:.2%} of the results differ, by up to {largest:.3g}"


def _layer(rows: int, depth: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scale = torch.rand(outputs, device="cuda") / (64 * depth)
    return _codes(rows, depth), _codes(outputs, depth), scale, torch.randn(outputs, device="cuda")


def _codes(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, device="cuda")


def _quantizer(kind: str, noise: int | None) -> Quantizer:
    scale, low = torch.tensor(0.021, device="cuda"), torch.tensor(0.17 / 127, device="cuda")
    added = None if noise is None else torch.randn(noise, device="cuda") / 50
    if kind == "signed":
        return Quantizer(scale, None, None, None, added, -128, 127)
    if kind == "unsigned":
        return Quantizer(scale, torch.tensor(117, dtype=torch.int32, device="cuda"), None, None, added, 0, 255)
    split = torch.tensor(0.0 if kind == "gelu" else 0.17, device="cuda")
    return Quantizer(scale, None, low if kind == "gelu" else -low, split, added, -127, 127)


def _small_model(dtype: torch.dtype, recipe: str) -> tuple[fx.GraphModule, list[Tensor]]:
    torch.manual_seed(0)
    options = {"img_size": 64, "depth": 2, "num_classes": 16}
    model = timm.create_model("vit_tiny_patch16_224", **options).eval().to(dtype)
    batches = [torch.randn(3, 3, 64, 64).to(dtype) for _ in range(2)]
    prepared = fxquant.prepare(model, fxquant.recipe(recipe), batches[0])
    gm = fxquant.convert(fxquant.calibrate(prepared, batches, progress=False))
    return gm.to("cuda"), [x.cuda() for x in batches]
