"""A linear layer on float8 codes: by `torch._scaled_mm`, which GPUs run, and by floats; both on the CPU here."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fxquant.errors import InputError
from fxquant.kernels import float8, multiplies_float8
from fxquant.ops import dequantize_float8, float8_linear, quantize_float8, quantize_float8_tokens
from fxquant.ops.float8_linear import float_mm, scaled_mm

G = torch.Generator().manual_seed(0)
E4M3 = torch.float8_e4m3fn
# Rows as batch and tokens, depth and outputs: multiples of 16, and such that are padded to them.
SHAPES = (((2, 17), 64, 48), ((1,), 16, 16), ((3, 5), 20, 10), ((2, 2, 2), 33, 1), ((4,), 1, 3))


def operands(rows: tuple[int, ...], depth: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight = torch.zeros(-(-outputs // 16) * 16, -(-depth // 16) * 16)
    weight[:outputs, :depth] = torch.randn(outputs, depth, generator=G)
    codes = torch.randn(*rows, depth, generator=G).to(E4M3)
    scale, bias = torch.rand(outputs, generator=G) + 0.1, torch.randn(outputs, generator=G)
    return codes, weight.to(E4M3), scale, bias


@pytest.mark.parametrize(("shape", "by_row"), itertools.product(SHAPES, (False, True)))
def test_the_scaled_product_is_that_of_floats(shape: tuple[tuple[int, ...], int, int], by_row: bool) -> None:
    given = operands(*shape)
    row_scale = torch.rand(*shape[0], 1, generator=G) + 0.1 if by_row else None
    codes, weight, scale, bias = given
    exact = codes.double() @ weight[: shape[2], : shape[1]].double().T * scale
    exact = exact * (1 if row_scale is None else row_scale) + bias
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        for product in (scaled_mm, float_mm, float8_linear):
            found = product(*given, dtype, row_scale)
            assert (found.dtype, found.shape) == (dtype, (*shape[0], shape[2]))
            torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("shape", "by_row"), itertools.product(SHAPES, (False, True)))
def test_cuda_would_take_what_it_is_given(shape: tuple[tuple[int, ...], int, int], by_row: bool) -> None:
    given = operands(*shape)
    with FakeTensorMode(allow_non_fake_inputs=True):  # torch's own conditions, on tensors without values
        codes, weight, scale, bias = (torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in given)
        row_scale = torch.empty(*shape[0], 1, device="cuda") if by_row else None
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found = scaled_mm(codes, weight, scale, bias, dtype, row_scale)
            assert (found.dtype, found.shape, found.device.type) == (dtype, (*shape[0], shape[2]), "cuda")
        unpadded = torch.empty(16, 20, dtype=E4M3, device="cuda")
        with pytest.raises(RuntimeError, match="divisible by 16"):
            scaled_mm(unpadded, unpadded, scale, bias, torch.float32, None)


def test_a_layer_is_what_its_operands_stand_for() -> None:
    x, w = torch.randn(3, 5, 32, generator=G), torch.randn(16, 32, generator=G)
    scale_w, bias = w.abs().amax(1) / 448, torch.randn(16, generator=G)
    weight = quantize_float8(w, scale_w, 0)
    scale = x.abs().max() / 448
    codes = quantize_float8(x, scale)
    expected = dequantize_float8(codes, scale) @ dequantize_float8(weight, scale_w, 0).T + bias
    torch.testing.assert_close(float8_linear(codes, weight, scale * scale_w, bias, torch.float32), expected)
    codes, by_row = quantize_float8_tokens(x)
    expected = dequantize_float8(codes, by_row) @ dequantize_float8(weight, scale_w, 0).T + bias
    torch.testing.assert_close(float8_linear(codes, weight, scale_w, bias, torch.float32, by_row), expected)


def test_rows_that_lie_apart_are_read_as_they_are() -> None:
    codes, weight, scale, bias = operands((4, 6), 32, 16)
    apart = codes.transpose(0, 1)
    assert torch.equal(
        scaled_mm(apart, weight, scale, bias, torch.float32, None).transpose(0, 1),
        scaled_mm(codes, weight, scale, bias, torch.float32, None),
    )


def test_only_gpus_from_ada_on_multiply_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not multiplies_float8(torch.zeros(2, dtype=E4M3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {}
    for capability in ((8, 0), (8, 9), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, own=capability: own)
        found[capability] = float8.obstacle.__wrapped__(0)
    assert found == {(8, 0): "expected compute capability 8.9 or later, found 8.0", (8, 9): None, (9, 0): None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": torch.zeros(2, 32, dtype=torch.int8)}, "values: expected torch.float8_e4m3fn"),
        ({"weight": torch.zeros(16, 32)}, "weight: expected torch.float8_e4m3fn"),
        ({"dtype": torch.float64}, "expected float32, bfloat16 or float16"),
        ({"row_scale": torch.ones(2)}, r"scale of each row: expected torch.float32 \(2, 1\)"),
    ],
)
def test_other_operands_are_refused(changed: dict[str, Tensor], message: str) -> None:
    codes, weight, scale, bias = operands((2,), 32, 16)
    given = {"codes": codes, "weight": weight, "scale": scale, "bias": bias, "dtype": torch.float32}
    with pytest.raises(InputError, match=message):
        float8_linear(**given | changed)  # type: ignore[arg-type]


@pytest.mark.long
def test_quantisers_and_the_scaled_product_compile_to_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[float8_linear.__module__], "multiplies_float8", lambda codes: True)
    _, weight, scale, bias = operands((1,), 32, 48)

    def run(x: Tensor) -> Tensor:
        codes, row_scale = quantize_float8_tokens(F.layer_norm(x, (32,)))
        return float8_linear(codes, weight, scale, bias, torch.float32, row_scale)

    compiled = torch.compile(run, fullgraph=True)
    for batch in (2, 5):
        x = torch.randn(batch, 17, 32, generator=G)
        torch.testing.assert_close(compiled(x), run(x), rtol=1e-4, atol=1e-4)
