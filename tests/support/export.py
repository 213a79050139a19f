"""Models that only torch.export can follow, and what holds for every graph captured that way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class Block(nn.Module):
    """A transformer block that reshapes by the size of the image, in Python."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(0.1)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, c).permute(2, 0, 1, 3).unbind(0)
        x = x + F.softmax(q @ k.transpose(-2, -1) * c**-0.5, dim=-1) @ v
        if n % 2 == 1:
            x = x[:, 1:]
        return self.activation(self.drop(x))


class Tiny(nn.Module):
    """Two names for one block, a buffer, a plain tensor, and a token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, 4)
        self.stem = nn.BatchNorm2d(8)
        first, second = Block(), Block()
        second.qkv.weight = first.qkv.weight
        self.blocks = nn.ModuleList([first, second])
        self.again = first
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.constant = torch.rand(8)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stem(self.proj(image)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in (*self.blocks, self.again):
            x = block(x) * self.scale + self.constant
        position = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        return x + position[:, None]


def check_capture(
    model: nn.Module, gm: fx.GraphModule, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    """Check the dialect, and the values at three batch sizes, one of which was not tried at capture."""
    assert {n.op for n in gm.graph.nodes} <= {"placeholder", "get_attr", "call_function", "call_method", "output"}
    assert not any("_.default" in str(n.target) or "_.Tensor" in str(n.target) for n in gm.graph.nodes)
    copied = copy.deepcopy(gm)
    for batch in (1, 3, 5):
        x = torch.randn(batch, *shape, dtype=dtype)
        with torch.no_grad():
            expected = model(x)
            assert expected.isfinite().all()
            assert torch.equal(gm(x), expected)
            assert torch.equal(copied(x), expected)


def randomized(model: nn.Module) -> nn.Module:
    """Give parameters that start at zero, such as layer scales, values that matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) < 1e-3:
                parameter.normal_(std=0.1)
    return model.eval()


def small_module(function: Callable[..., Any], **tensors: Tensor) -> nn.Module:
    """Return a module with a linear layer ``fc``, and buffers, whose forward is ``function(module, *inputs)``."""
    module = type("Small", (nn.Module,), {"forward": function})()
    module.fc = nn.Linear(4, 4)
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module.eval()
