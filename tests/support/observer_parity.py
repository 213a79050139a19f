"""Streams of batches and what the published observers made of them (FQ-ViT), recorded in `observers.safetensors`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fxquant.config.operands import TensorSpec
from fxquant.numerics.arithmetic import dequantize, quantize
from fxquant.numerics.codes import Codes
from fxquant.observers import Observer, ObserverOptions, QParams

RECORDED = load_file(Path(__file__).parents[1] / "data" / "observers.safetensors")
# Whose values all lie further than half a step from zero: published scales, without a code for zero, saturate there.
AWAY_FROM_ZERO = ("constant", "img4d_positive", "near_constant", "tok3d_negative")
STREAMS = sorted({key.split("/")[0] for key in RECORDED if not key.startswith("weight/")} - {*AWAY_FROM_ZERO})

each_stream = pytest.mark.parametrize("stream", STREAMS)
each_bits = pytest.mark.parametrize("bits", [8, 4])


def batches_of(stream: str) -> list[Tensor]:
    """Return the batches of a recorded stream, in order."""
    count = sum(key.startswith(f"{stream}/x") for key in RECORDED)
    return [RECORDED[f"{stream}/x{i}"] for i in range(count)]


def observed(options: ObserverOptions, batches: Iterable[Tensor], spec: TensorSpec | None = None) -> Observer:
    """Return an observer named ``site`` that has seen `batches`."""
    observer = options.build(spec or TensorSpec(), "site")
    for batch in batches:
        observer(batch)
    return observer


def fake_quantized(x: Tensor, qparams: QParams, spec: Codes) -> Tensor:
    """Return `x` quantised and dequantised."""
    scale, zero_point, axis = qparams.scale, qparams.zero_point, qparams.axis
    return dequantize(quantize(x, scale, zero_point, spec.qmin, spec.qmax, axis), scale, zero_point, axis)


def assert_as_published(options: ObserverOptions, name: str, stream: str, bits: int, rtol: float) -> None:
    """Compare scale (to `rtol`), zero point and, where recorded, codes (both exact) with the published observer."""
    spec, batches, recorded = TensorSpec(bits=bits), batches_of(stream), f"{stream}/u{bits}/{name}"
    qparams = observed(options, batches, spec).calculate_qparams()
    torch.testing.assert_close(qparams.scale, RECORDED[f"{recorded}/scale"], rtol=rtol, atol=0)
    assert qparams.zero_point is not None
    assert qparams.zero_point.item() == RECORDED[f"{recorded}/zero_point"].item()
    if f"{recorded}/codes" in RECORDED:
        codes = quantize(batches[-1], qparams.scale, qparams.zero_point, spec.qmin, spec.qmax)
        assert codes.to(torch.int16).equal(RECORDED[f"{recorded}/codes"])
        dequantized = dequantize(codes, qparams.scale, qparams.zero_point)
        torch.testing.assert_close(dequantized, RECORDED[f"{recorded}/dequant"], rtol=rtol, atol=0)
