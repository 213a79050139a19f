"""The other engines of `bench.gpu`: why one cannot run, and what is asked of their packages."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bench.gpu import cells
from bench.gpu.rivals import RIVALS, Rival
from bench.time_tables import GPU
from fxquant.kernels import float8

BY_NAME = {rival.name: rival for rival in RIVALS}


def test_the_table_has_a_column_for_each_form() -> None:
    assert (cells.BASELINE, *cells.FORMS) == GPU


def test_what_is_not_installed_is_named() -> None:
    rival = Rival("it", ("json", "no_such_package", "nor_this"), (8, 0), lambda model, images: model)
    assert rival.obstacle() == "not installed: no_such_package, nor_this"


def test_a_gpu_without_the_units_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    rival = Rival("it", ("json",), (8, 9), lambda model, images: model)
    assert rival.obstacle() == "expected compute capability 8.9, found 8.6"
    assert Rival("it", ("json",), (8, 0), rival.build).obstacle() is None
    monkeypatch.setattr(float8, "obstacle", lambda device: "an old GPU")
    assert (cells.obstacle("float8"), cells.obstacle("int8 triton")) == ("an old GPU", None)


def test_torchao_has_the_configs() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    for name in ("Int8DynamicActivationInt8WeightConfig", "Float8DynamicActivationFloat8WeightConfig", "PerRow"):
        assert hasattr(quantization, name)


@pytest.mark.parametrize("name", ["torchao int8", "torchao float8"])
def test_torchao_is_given_the_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    configs = ("Int8DynamicActivationInt8WeightConfig", "Float8DynamicActivationFloat8WeightConfig", "PerRow")
    made = {each: lambda each=each, **options: (each, options) for each in configs}
    package = SimpleNamespace(quantize_=lambda model, config: asked.append(config), **made)
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", package)
    monkeypatch.setattr(torch, "compile", lambda model, mode: (model, mode))
    model = nn.Linear(4, 4)
    run: Any = BY_NAME[name].build(model, torch.zeros(1, 4))
    assert run == (model, "max-autotune")
    options: dict[str, Any] = {"granularity": ("PerRow", {})} if "float8" in name else {}
    assert asked == [(configs["float8" in name], options)]


@pytest.mark.parametrize("name", ["TensorRT int8", "TensorRT float8"])
def test_tensorrt_is_given_what_modelopt_calibrated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def quantize(model: nn.Module, config: str, forward_loop: Any) -> None:
        seen.append((config, forward_loop(model).shape))

    def compile(exported: Any, **options: Any) -> Any:
        seen.append((type(exported).__name__, options["enabled_precisions"], options["min_block_size"]))
        return exported.module()

    modules: dict[str, Any] = {
        "modelopt": ModuleType("modelopt"),
        "modelopt.torch": ModuleType("modelopt.torch"),
        "modelopt.torch.quantization": SimpleNamespace(
            INT8_DEFAULT_CFG="int8", FP8_DEFAULT_CFG="float8", quantize=quantize
        ),
        "modelopt.torch.quantization.utils": SimpleNamespace(export_torch_mode=contextlib.nullcontext),
        "torch_tensorrt": SimpleNamespace(dynamo=SimpleNamespace(compile=compile)),
    }
    for module, value in modules.items():
        monkeypatch.setitem(sys.modules, module, value)
    run = BY_NAME[name].build(nn.Linear(4, 3), torch.zeros(2, 4))
    precision = torch.int8 if "int8" in name else torch.float8_e4m3fn
    assert seen == [
        (name.partition(" ")[2], (2, 3)),
        ("ExportedProgram", {precision, torch.bfloat16}, 1),
    ]
    assert run(torch.ones(2, 4)).shape == (2, 3)
