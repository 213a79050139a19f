"""The tables of operators: each gives in ONNX Runtime what it gives in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant

pytest.importorskip("onnx", reason="needs the package onnx, of the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, of the extra onnx")

from bench.exported.agreement import run_file

Function = Callable[[Tensor], Tensor]
POSITIVE: Function = lambda x: x.abs() + 1  # noqa: E731

# Of images (B, 4, 8, 8).
ELEMENTWISE: dict[str, Function] = {
    "add": lambda x: x + 1,
    "sub": lambda x: 1 - x,
    "mul": lambda x: x * 3,
    "div": lambda x: x / 3,
    "div by": lambda x: 1 / POSITIVE(x),
    "pow": lambda x: POSITIVE(x) ** 1.5,
    "neg": lambda x: -x,
    "abs": torch.abs,
    "exp": torch.exp,
    "log": lambda x: POSITIVE(x).log(),
    "sqrt": lambda x: POSITIVE(x).sqrt(),
    "rsqrt": lambda x: POSITIVE(x).rsqrt(),
    "reciprocal": lambda x: POSITIVE(x).reciprocal(),
    "trigonometric": lambda x: x.sin() + x.cos() + x.tanh(),
    "rounded": lambda x: x.floor() + x.ceil() + x.round() + x.sign(),
    "erf": torch.erf,
    "square": torch.square,
    "clamp": lambda x: x.clamp(-0.5, 0.25),
    "clamp below": lambda x: x.clamp(min=0.1),
    "maximum": lambda x: torch.maximum(x, -x),
    "where": lambda x: torch.where(x > 0.2, x, 0.5),
    "masked": lambda x: x.masked_fill(x <= 0, 7.0),
    "not equal": lambda x: (x != 0).float(),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": lambda x: F.relu(x) + F.relu6(4 * x) + F.leaky_relu(x, 0.2),
    "silu": lambda x: F.silu(x) + F.hardswish(x) + F.hardsigmoid(x) + F.mish(x),
    "softmax": lambda x: F.softmax(x, 1),
    "log softmax": lambda x: F.log_softmax(x, dim=-1),
}
ALONG_AXES: dict[str, Function] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean of all": lambda x: x.mean(1, keepdim=True),
    "sum": lambda x: x.sum(-1),
    "amax": lambda x: x.amax(1) - x.amin(1),
    "layer norm": lambda x: F.layer_norm(x, (8, 8)),
    "rms norm": lambda x: F.rms_norm(x, (8,), torch.full((8,), 2.0), 1e-6),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.5),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(8, 8).tril() > 0),
    "einsum": lambda x: torch.einsum("bchw,bcwd->bhd", x, x),
}
MOVES: dict[str, Function] = {
    "reshape": lambda x: x.reshape(x.shape[0], 4, -1),
    "windows": lambda x: x.reshape(x.shape[0] * 2, 2, 64),
    "unflatten": lambda x: x.flatten(1).unflatten(1, (16, 16)),
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
    "permute": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2),
    "expand": lambda x: torch.zeros(1, 1, 8, 8).expand(x.shape[0], -1, -1, -1) + x,
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "cat": lambda x: torch.cat([x, x + 1], 1),
    "stack": lambda x: torch.stack([x, x + 1], -1),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "split": lambda x: x.split([1, 3], 1)[1] + x.split(3, 2)[2].sum(),
    "unbind": lambda x: x.unbind(1)[2],
    "roll": lambda x: torch.roll(x, (-3, 2), (2, 3)),
    "flip": lambda x: x.flip(2, 3),
    "slices": lambda x: x[:, 1::2, ..., :5],
    "numbers": lambda x: x[:, -1, :, 3],
    "new axes": lambda x: x[:, None, 0, ..., None],
    "gather": lambda x: x[:, :, torch.tensor([3, 1, 1])],
    "index select": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5) + F.pad(x, (1, 2, 0, 3), "reflect"),
    "cast": lambda x: x.to(torch.int64).float() + (x > 0).to(x.dtype),
}
IMAGES: dict[str, Function] = {
    "convolution": lambda x: F.conv2d(x, torch.ones(6, 2, 3, 3) / 9, torch.arange(6.0), 2, 1, 1, 2),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "windows of equal size": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "bilinear": lambda x: F.interpolate(x, size=(16, 12), mode="bilinear"),
    "nearest": lambda x: F.interpolate(x, size=(16, 16)),
}


class Many(nn.Module):
    """A convolution, which is quantised, and the results of `functions` by name, beside it."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.conv, self.functions = nn.Conv2d(4, 4, 8, 8), functions

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``{"conv": (B, 4, 1, 1), ...}``."""
        return {"conv": self.conv(x), **{name: function(x) for name, function in self.functions.items()}}


@pytest.mark.long
@pytest.mark.parametrize("functions", [ELEMENTWISE, ALONG_AXES, MOVES, IMAGES], ids=["each", "axes", "moves", "images"])
def test_operators_give_what_they_do_in_torch(functions: dict[str, Function], tmp_path: Path) -> None:
    model, x = Many(functions).eval(), torch.randn(2, 4, 8, 8)
    gm = fxquant.quantize(model, [x], "minmax", progress=False)
    fxquant.export_onnx(gm, tmp_path / "many.onnx")
    other = torch.randn(3, 4, 8, 8)
    found = run_file(tmp_path / "many.onnx", (other,))
    for name, expected, own in zip(["conv", *functions], model(other).values(), found, strict=True):
        assert own.shape == expected.shape, name
        error = (own.double() - expected.double()).abs().max()
        assert error <= (0.1 if name == "conv" else 1e-5) * (1 + expected.double().abs().max()), name
