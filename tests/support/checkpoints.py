"""Small models at every stage, what it means that two graphs are the same, and forged files."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor, fx, nn

import fxquant
from fxquant.checkpoint import container
from fxquant.checkpoint.tensors import digest
from fxquant.graph.meta import any_value_of, has_value, module_path, record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder

STAGES = ("float", "prepared", "calibrated", "fake", "int8")


class ConvNet(nn.Module):
    """A padded convolution, a strided one, and a linear head on the mean of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 2, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, 5)`` of images ``(B, 3, 8, 8)``."""
        x = torch.relu(self.down(torch.relu(self.stem(x))))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def vit(**options: Any) -> nn.Module:
    """Return a ViT of two blocks for images ``(B, 3, 32, 32)``."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, **(sizes | options))
    return model.eval()


def swin() -> nn.Module:
    """Return a Swin transformer of a plain and a shifted block, for images ``(B, 3, 32, 32)``."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2,), "num_heads": (2,)}
    model: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=10, **sizes)
    return model.eval()


def conv_net() -> nn.Module:
    """Return a `ConvNet` in evaluation mode."""
    torch.manual_seed(0)
    return ConvNet().eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "swin": swin,
    "conv": conv_net,
    "vit_bfloat16": lambda: vit(depth=1).bfloat16(),
    "vit_wide": lambda: vit(depth=1, embed_dim=192, num_heads=3),
}


@functools.cache
def model_named(name: str) -> nn.Module:
    """Return a model of `MODELS`, the same one each time."""
    return MODELS[name]()


def images(name: str, seed: int = 0) -> Tensor:
    """Return four images for the model `name`."""
    dtype = next(model_named(name).parameters()).dtype
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)


@functools.cache
def at_stage(name: str, stage: str, recipe: str = "minmax", **options: Any) -> fx.GraphModule:
    """Return the graph of the model `name` at one of `STAGES`, the same one each time: copy it before changing it."""
    if stage == "float":
        return fxquant.trace(model_named(name))
    if stage == "prepared":
        return fxquant.prepare(at_stage(name, "float"), fxquant.recipe(recipe, **options))
    if stage == "calibrated":
        prepared = copy.deepcopy(at_stage(name, "prepared", recipe, **options))
        return fxquant.calibrate(prepared, [images(name)], progress=False)
    return fxquant.convert(at_stage(name, "calibrated", recipe, **options), "fake" if stage == "fake" else "int8")


def round_trip(gm: fx.GraphModule, folder: Path) -> fx.GraphModule:
    """Return what comes back of `gm` from a file in `folder`."""
    fxquant.save(gm, folder / "model.safetensors")
    return fxquant.load(folder / "model.safetensors")


def assert_same(expected: fx.GraphModule, found: fx.GraphModule, inputs: Sequence[Tensor] = ()) -> None:
    """Check that two graph modules are the same in everything a checkpoint keeps; run them where there are `inputs`."""
    assert type(found).__name__ == type(expected).__name__
    assert {key: found.meta.get(key) for key in ("stage", "dtype")} == {
        key: expected.meta.get(key) for key in ("stage", "dtype")
    }
    assert found.training is expected.training
    assert_same_tensors(expected, found)
    assert [_facts(n) for n in found.graph.nodes] == [_facts(n) for n in expected.graph.nodes]
    assert _modules(found) == _modules(expected)
    expected.recompile()
    assert _unannotated(found.code) == _unannotated(expected.code)
    if inputs:
        with torch.no_grad():
            assert torch.equal(found(*inputs), expected(*inputs))


def assert_same_tensors(expected: nn.Module, found: nn.Module) -> None:
    """Check that all tensors of two modules agree bit for bit, in kind, order, strides and sharing."""
    assert list(found.state_dict()) == list(expected.state_dict())
    pairs = list(zip(_tensors(found), _tensors(expected), strict=True))
    for (name, tensor), (wanted, other) in pairs:
        assert (name, type(tensor), tensor.requires_grad) == (wanted, type(other), other.requires_grad)
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (other.dtype, other.shape, other.stride())
        assert digest(tensor.detach().contiguous()) == digest(other.detach().contiguous()), name
    assert _sharing(_tensors(found)) == _sharing(_tensors(expected))


def read_parts(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON contents and the tensors of a file without any of the checks of `fxquant.load`."""
    with safe_open(path, framework="pt") as f:
        contents = json.loads(f.metadata()["fxquant_graph"])
        return contents, {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118


def forge(path: Path, change: Callable[[Any, dict[str, Tensor]], Any]) -> None:
    """Change the contents and tensors of a file and write it back with checksums that are right."""
    contents, tensors = read_parts(path)
    replaced = change(contents, tensors)
    contents = contents if replaced is None else replaced
    for key, tensor in tensors.items():
        descriptions = contents.get("tensors") if isinstance(contents, dict) else None
        if isinstance(descriptions, dict) and isinstance(descriptions.get(key), dict):
            descriptions[key]["sha256"] = digest(tensor)
    container.write(str(path), contents, tensors)


def node_of(contents: Any, target: str) -> Any:
    """Return the JSON of the first node that calls or reads `target`."""
    return next(node for node in contents["nodes"] if node["target"] == target)


def _facts(node: fx.Node) -> tuple[Any, ...]:
    value = str(any_value_of(node) if has_value(node) else "unknown")
    arguments = repr((node.args, node.kwargs))  # nodes by name
    return (node.name, node.op, node.target, arguments, record_of(node), module_path(node), value)


def _unannotated(code: str) -> str:
    return re.sub(r" -> [^:]+:", ":", code, count=1)


def _modules(gm: fx.GraphModule) -> list[tuple[Any, ...]]:
    """Return what the modules of a graph hold besides tensors."""
    rows: list[tuple[Any, ...]] = []
    for path, module in gm.named_modules():
        if isinstance(module, Observer):
            rows.append((path, type(module), module.spec, module.operand, module.frozen))
        elif isinstance(module, InputRecorder):
            rows.append((path, type(module), module.operand, module.dtype))
        else:
            rows.append((path,))
    return rows


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _sharing(tensors: list[tuple[str, Tensor]]) -> dict[str, str]:
    """Return for each tensor the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
