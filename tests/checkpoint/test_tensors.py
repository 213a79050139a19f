"""Tensors of every kind come back bit for bit, with their sharing and memory layout."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxquant
from tests.support import checkpoints
from tests.support.checkpoints import assert_same, assert_same_tensors, at_stage, images, round_trip


class Mixed(nn.Module):
    """A layer called twice, over tensors of every kind."""

    shift: Tensor
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.tensor([float("nan"), 1.0, -0.0, 1, 1, 1, 1, 1]), requires_grad=False)
        self.register_buffer("shift", torch.full((8,), float("-inf")))
        self.register_buffer("hidden", torch.arange(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix everything into ``(B, 8)``."""
        x = self.layer(self.layer(x)) * self.scale
        return torch.maximum(x, self.shift) + self.hidden


def test_kinds_of_tensors_and_their_sharing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gm = fxquant.trace(Mixed().eval())
    weight = gm.get_parameter("layer.weight")
    other = nn.Linear(8, 8)
    other.weight = weight
    gm.add_module("tied", other)
    gm.register_buffer("alias", weight.detach())
    gm.register_buffer("cache", torch.arange(3), persistent=False)
    gm.register_buffer("empty", torch.zeros(2, 0, 3))
    gm.register_buffer("also_empty", torch.zeros(2, 0, 3))
    loaded = round_trip(gm, tmp_path)
    assert_same_tensors(gm, loaded)
    assert loaded.get_parameter("tied.weight") is loaded.get_parameter("layer.weight")
    assert loaded.get_buffer("alias").data_ptr() == loaded.get_parameter("layer.weight").data_ptr()
    assert isinstance(loaded.get_parameter("layer.weight"), nn.Parameter)
    assert "cache" not in loaded.state_dict()
    assert loaded.get_buffer("cache").equal(torch.arange(3))
    _, stored = checkpoints.read_parts(tmp_path / "model.safetensors")
    assert len(stored) == len(list(gm.parameters())) + len(list(gm.buffers())) - 1
    x = torch.randn(4, 8)
    assert gm(x).nan_to_num(7).equal(loaded(x).nan_to_num(7))


def test_views_of_one_memory_are_stored_apart(tmp_path: Path) -> None:
    gm = copy.deepcopy(at_stage("conv", "float"))
    flat = torch.randn(16 * 5 + 16)
    head = gm.get_submodule("head")
    head.weight = nn.Parameter(flat[: 16 * 5].view(5, 16))
    head.bias = nn.Parameter(flat[16 * 5 : 16 * 5 + 5])
    assert_same_tensors(gm, round_trip(gm, tmp_path))


def test_memory_layout_survives(tmp_path: Path) -> None:
    model = checkpoints.conv_net().to(memory_format=torch.channels_last)
    gm = fxquant.trace(model)
    assert not gm.get_parameter("stem.weight").is_contiguous()
    assert_same(gm, round_trip(gm, tmp_path), [images("conv")])


class Rotary(nn.Module):
    """A layer and complex tensors behind it."""

    turns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("turns", torch.polar(torch.ones(3, 4), torch.arange(12.0).reshape(3, 4)))
        self.scale = nn.Parameter(torch.randn(4, 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Turn pairs of channels, in ``(B, 3, 8)``."""
        pairs = torch.view_as_complex(torch.reshape(self.layer(x), (-1, 3, 4, 2)))
        return torch.view_as_real(pairs * self.turns * self.scale.mT).flatten(2)


def test_complex_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gm, x = fxquant.trace(Rotary().eval()), torch.randn(2, 3, 8)
    gm.register_buffer("conjugate", gm.get_buffer("turns").conj())
    gm.register_buffer("negative", gm.get_buffer("turns").conj().imag)
    gm.register_buffer("transposed", torch.randn(3, 5, dtype=torch.complex64).t())
    gm.register_buffer("odd", torch.tensor([complex("nan+infj"), complex(-0.0, -1), 0]))
    gm.register_buffer("wide", torch.randn(2, 3, dtype=torch.complex128))
    gm.register_buffer("none", torch.zeros(0, 2, dtype=torch.complex64))
    loaded = round_trip(gm, tmp_path)
    for name, tensor in gm.named_buffers():
        found = loaded.get_buffer(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert bits(found) == bits(tensor), name
    assert loaded.get_buffer("transposed").stride() == (1, 5)
    assert not torch.equal(loaded.get_buffer("conjugate"), loaded.get_buffer("turns"))
    assert torch.equal(loaded(x), gm(x))


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values, in the order of its axes."""
    plain = tensor.resolve_conj().resolve_neg().contiguous()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).numpy().tobytes()


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    gm = copy.deepcopy(at_stage("conv", "float")).to("meta")
    with pytest.raises(fxquant.CheckpointError, match=r"stem\.weight.*meta"):
        fxquant.save(gm, tmp_path / "model.safetensors")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_save_and_load_on_cuda(tmp_path: Path) -> None:
    x = images("vit")
    gm = copy.deepcopy(at_stage("vit", "int8"))
    fxquant.save(gm.to("cuda"), tmp_path / "model.safetensors")
    assert_same_tensors(gm.cpu(), fxquant.load(tmp_path / "model.safetensors"))
    loaded = fxquant.load(tmp_path / "model.safetensors", device="cuda")
    assert {t.device.type for t in (*loaded.parameters(), *loaded.buffers())} == {"cuda"}
    with torch.no_grad():
        assert torch.equal(loaded(x.cuda()), gm.cuda()(x.cuda()))
