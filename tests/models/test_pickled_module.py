"""Whole models that were pickled: their tensors are read without their classes, or the file is refused by name."""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxquant.errors import InputError
from fxquant.models.timm_model import build_timm_model
from fxquant.models.weight_file import read_weights
from tests.support.hostile_pickles import called, hostile_values, named, storage, text, write_zip

TINY: dict[str, Any] = {"img_size": 32, "num_classes": 3}


class Net(nn.Module):
    """A model of everything that a state dict holds, and of some that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
        self.tied = self.layers
        self.scale = nn.Parameter(torch.randn(1))
        self.register_parameter("none", None)
        self.register_buffer("kept", torch.randn(2))
        self.register_buffer("dropped", torch.randn(2), persistent=False)
        self.plain = torch.randn(2)
        self.absent: nn.Module | None = None
        self.register_module("absent_too", None)
        self.register_forward_hook(print)


class Holder:
    """Holds a model where no module is looked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class Rebuilt(nn.Module):
    """A module that only its own code can take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def __reduce__(self) -> tuple[Any, ...]:
        return Rebuilt, (), None


class Slots:
    """An object whose state is no mapping, which a stand-in cannot take."""

    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


def save(folder: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, folder / "whole.pth", _use_new_zipfile_serialization=zipped)
    return folder / "whole.pth"


@pytest.mark.parametrize(
    "wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}, lambda m: {"ema": m, "model": Net()}]
)
def test_a_module_gives_its_state_dict(tmp_path: Path, wrap: Any) -> None:
    net = Net()
    found, wanted = read_weights(save(tmp_path, wrap(net))), net.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, AveragedModel, torch.compile, torch.fx.symbolic_trace])
def test_a_whole_model_of_timm_loads_by_name(tmp_path: Path, wrap: Any) -> None:
    name = "vit_tiny_patch16_224"
    source = timm.create_model(name, **TINY).eval()
    source.norm_layer = nn.LayerNorm
    built = build_timm_model(name, checkpoint=save(tmp_path, wrap(source)), **TINY)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in built.model.state_dict().items())


def tensor() -> bytes:
    """Return the program of a tensor ``(1,)`` of zero."""
    one = storage("torch.FloatStorage", b"K\x01")
    return called("torch._utils._rebuild_tensor_v2", one, b"K\x00", b"K\x01\x85", b"K\x01\x85", b"\x89", b"}")


def test_the_classes_need_not_be_installed(tmp_path: Path) -> None:
    state = text("_parameters") + b"}" + text("w") + tensor() + b"s" + text("_buffers") + b"}" + text("_modules") + b"}"
    file = write_zip(tmp_path / "a.pth", named("nowhere.Model") + b")\x81}(" + state + b"ub")
    assert torch.equal(read_weights(file)["w"], torch.zeros(1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Rebuilt(), r"without code of .*Rebuilt.*object of a class that is no module"),
        (nn.Sequential(Rebuilt()), r"without code of .*Rebuilt and .* of torch.*\(0 is no module"),
        (Holder(nn.Linear(1, 1)), r"without code of .*Holder and .*If you trust the file, save its weights once"),
        ({"model": {"w": torch.ones(1)}, "extra": Slots()}, r"without code of .*Slots, which is not run"),
        (
            {"model": {"w": torch.ones(1)}, "losses": deque([1])},
            r"without code of collections\.deque, which is not run",
        ),
    ],
)
def test_what_only_its_own_code_can_read_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_weights(save(tmp_path, content))


def test_a_module_in_an_old_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without code of .*Net and .* of torch.*persistent.*\.state_dict\(\)"):
        read_weights(save(tmp_path, Net(), zipped=False))


@pytest.mark.parametrize("program", sorted(hostile_values(Path("mark"))))
@pytest.mark.parametrize("place", ["alone", "in a module"])
def test_hostile_files_are_refused_and_nothing_runs(tmp_path: Path, program: str, place: str) -> None:
    mark = tmp_path / "mark"
    code = hostile_values(mark)[program]
    if place == "in a module":
        parts = text("_parameters") + b"}" + text("w") + code + b"s" + text("_buffers") + b"}" + text("_modules") + b"}"
        code = named("torch.nn.modules.linear.Linear") + b")\x81}(" + parts + b"ub"
    with pytest.raises(InputError, match=r"^(cannot read the )?checkpoint '"):
        read_weights(write_zip(tmp_path / "a.pth", code))
    assert not mark.exists()


def module(modules: bytes, memo: bytes = b"") -> bytes:
    """Return the program of a module with these children and no tensors."""
    state = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + modules + b"u"
    return named("a.Module") + b")\x81" + memo + state + b"b"


def test_modules_without_end_are_refused(tmp_path: Path) -> None:
    own = module(b"}" + text("a") + b"h\x00s", memo=b"q\x00")
    doubled = b"".join(
        module(b"}(" + text("a") + b"g\x00".replace(b"g", b"h") + text("b") + b"h\x00u") + b"q\x00" for _ in range(40)
    )
    for program, message in ((own, "is no module"), (module(b"}") + b"q\x00" + doubled, "more than 100000 modules")):
        with pytest.raises(InputError, match=message):
            read_weights(write_zip(tmp_path / "a.pth", program))


def test_mappings_that_hold_themselves_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold a state dict, but keys model"):
        read_weights(write_zip(tmp_path / "a.pth", b"}q\x00" + text("model") + b"h\x00s"))
    found = read_weights(
        write_zip(tmp_path / "a.pth", b"}q\x00(" + text("model") + b"h\x00" + text("w") + tensor() + b"u")
    )
    assert torch.equal(found["w"], torch.zeros(1))


def test_attributes_do_not_hide_methods(tmp_path: Path) -> None:
    program = named("collections.OrderedDict") + b")R}" + text("items") + named("builtins.eval") + b"sb"
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        read_weights(write_zip(tmp_path / "a.pth", program))


def test_a_real_module_that_the_user_allows_is_read_too(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    with torch.serialization.safe_globals([nn.Linear, OrderedDict]):
        found = read_weights(save(tmp_path, {"model": layer}))
    assert torch.equal(found["weight"], layer.weight)
