"""`quantize_early` moves codes where it would have moved floats, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import LayerSpec, PerChannel, QuantConfig, TensorSpec
from fxquant.graph.attributes import get_tensor
from fxquant.graph.stages import Stage
from fxquant.passes.quantize_early import quantize_early
from tests.support.check_pass import check_pass, check_unchanged
from tests.support.lowered import lowered

X = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))


class Moved(nn.Module):
    """A layer that reads a norm through `move`."""

    def __init__(self, move: Any, outputs: int = 8, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.fc, self.move = nn.LayerNorm(6), nn.Linear(width, outputs), move
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Any:
        moved = self.move(self.norm(x))
        y = self.fc(moved[0] if isinstance(moved, tuple) else moved)
        return (y, *moved[1:]) if isinstance(moved, tuple) else y


def test_windows_are_cut_from_codes() -> None:
    gm = check_pass(
        quantize_early,
        lowered(Moved(lambda y: torch.roll(y, (-1, -1), (1, 2)).view(-1, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5)), X),
        (X,),
        before="""
            (x)
            check_input = check_input(x, (None, None, None, 6), 'x')
            layer_norm = F.layer_norm(check_input, (6,), norm.weight, norm.bias)
            roll = torch.roll(layer_norm, (-1, -1), (1, 2))
            reshape = roll.reshape(-1, 2, 2, 2, 2, 6)
            permute = reshape.permute(0, 1, 3, 2, 4, 5)
            quantize = quantize(permute, fc.input_scale, fc.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True)
            return int8_linear
        """,
        after="""
            (x)
            check_input = check_input(x, (None, None, None, 6), 'x')
            layer_norm = F.layer_norm(check_input, (6,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255)
            roll = torch.roll(quantize, (-1, -1), (1, 2))
            reshape = roll.reshape(-1, 2, 2, 2, 2, 6)
            permute = reshape.permute(0, 1, 3, 2, 4, 5)
            int8_linear = int8_linear(permute, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True)
            return int8_linear
        """,
        stage=Stage.LOWERED,
    )
    moved = [n for n in gm.graph.nodes if n.target in ("reshape", "permute", torch.roll)]
    assert all(n.meta["val"].dtype is torch.int8 for n in moved)
    for batch in (0, 1, 3):
        assert gm(torch.randn(batch, 4, 4, 6)).shape[0] == batch


def test_padding_is_the_code_of_zero() -> None:
    original = lowered(Moved(lambda y: F.pad(y, (0, 0, 0, 1, 0, 2)).transpose(1, 2).flatten(1, 2)), X)
    zero = int(get_tensor(original, "fc.input_zero_point")) - 128
    gm = check_pass(
        quantize_early,
        original,
        (X,),
        after=f"""
            (x)
            check_input = check_input(x, (None, None, None, 6), 'x')
            layer_norm = F.layer_norm(check_input, (6,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255)
            pad = F.pad(quantize, (0, 0, 0, 1, 0, 2), mode='constant', value={zero})
            transpose = pad.transpose(1, 2)
            flatten = transpose.flatten(1, 2)
            int8_linear = int8_linear(flatten, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, False)
            return int8_linear
        """,
        stage=Stage.LOWERED,
    )
    assert gm(torch.randn(1, 7, 2, 6)).shape == (1, 27, 8)


SYMMETRIC = LayerSpec(activation=TensorSpec(6, signed=True, symmetric=True))
UNSIGNED = LayerSpec(activation=TensorSpec(4))


@pytest.mark.parametrize("layer", [SYMMETRIC, UNSIGNED], ids=["6 bits, symmetric", "4 bits, unsigned"])
def test_padding_of_other_codes(layer: LayerSpec) -> None:
    original = lowered(Moved(lambda y: F.pad(y, (0, 0, 1, 1))), X, QuantConfig(layer))
    result = quantize_early(lowered(Moved(lambda y: F.pad(y, (0, 0, 1, 1))), X, QuantConfig(layer)))
    assert result.modified
    assert torch.equal(result.graph_module(X), original(X))


def test_noise_moves_along_with_its_channels() -> None:
    check_pass(
        quantize_early,
        lowered(Moved(lambda y: (torch.roll(y, 1, 1).permute(0, 2, 1, 3).reshape(-1, 16, 6), y)), X, noise=6),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, None, None, 6), 'x')
            layer_norm = F.layer_norm(check_input, (6,), norm.weight, norm.bias)
            quantize = quantize(layer_norm, fc.input_scale, fc.input_zero_point, 0, 255, None, fc.input_noise)
            roll = torch.roll(quantize, 1, 1)
            permute = roll.permute(0, 2, 1, 3)
            reshape = permute.reshape(-1, 16, 6)
            int8_linear = int8_linear(reshape, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True)
            return (int8_linear, layer_norm)
        """,
        stage=Stage.LOWERED,
    )


ELSEWHERE: dict[str, Any] = {  # the noise of channel c would land on another one
    "padding": lambda y: (F.pad(y, (0, 0, 0, 1)), y),
    "channels rolled": lambda y: (torch.roll(y, 1, -1), y),
    "everything rolled": lambda y: (torch.roll(y, 1), y),
    "a permutation": lambda y: (y.permute(0, 3, 1, 2).reshape(-1, 16, 6), y),
    "a transposition": lambda y: (y.transpose(-1, 1).reshape(-1, 4, 4, 6), y),
    "channels regrouped": lambda y: (y.reshape(-1, 4, 2, 12).reshape(-1, 8, 3, 4).flatten(2), y),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_noise_that_would_land_elsewhere_stays(name: str) -> None:
    width = ELSEWHERE[name](torch.randn(2, 4, 4, 6))[0].shape[-1]
    gm = lowered(Moved(ELSEWHERE[name], width=width), X, noise=width)
    assert any(len(n.args) == 7 for n in gm.graph.nodes), "expected noise at the quantiser"
    check_unchanged(quantize_early, gm, (X,), Stage.LOWERED)


STAYS = {
    "no move": lambda y: y,
    "values with other readers": lambda y: ((moved := y.transpose(1, 2)), moved),
    "a computation": lambda y: y.transpose(1, 2) * 2,
    "another padding": lambda y: F.pad(y, (0, 0, 0, 1), value=1.0),
    "a reflection": lambda y: F.pad(y, (0, 0, 1, 1, 1, 1), mode="replicate"),
    "a copy": lambda y: y.repeat(1, 2, 1, 1),
    "a slice": lambda y: y[:, 1:],
}


@pytest.mark.parametrize("name", STAYS)
def test_near_misses(name: str) -> None:
    check_unchanged(quantize_early, lowered(Moved(STAYS[name]), X), (X,), Stage.LOWERED)


def test_scales_per_channel_stay() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))
    gm = lowered(Moved(lambda y: y.transpose(1, 2)), X, config)
    check_unchanged(quantize_early, gm, (X,), Stage.LOWERED)


def test_what_no_norm_computed_stays() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.transpose(1, 2))

    check_unchanged(quantize_early, lowered(Plain(), X), (X,), Stage.LOWERED)
