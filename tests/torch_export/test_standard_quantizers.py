"""Standard quantisers make the codes of fxquant's, but on the edge between two codes; other quantisers are refused by name."""

from __future__ import annotations

import copy
import functools
from typing import Any, cast

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerChannel, PerHead, PerToken, QuantConfig, TensorSpec, UnsupportedGraphError
from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import add_noise, quantize, quantize_tokens
from fxquant.torch_export.standard_quantizers import standard_quantizers

STANDARD = torch.ops.quantized_decomposed


class Attention(nn.Module):
    """Attention of two heads over ``(B, N, 16)``, behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, 16)``."""
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return y


SIGNED = TensorSpec(6, signed=True, symmetric=True, granularity=PerHead())
CONFIGS = {
    "affine": QuantConfig(),
    "signed": QuantConfig(LayerSpec(activation=TensorSpec(8, signed=True, symmetric=True))),
    "4 bits": QuantConfig(LayerSpec(TensorSpec(4, True, True, PerChannel(0)), TensorSpec(4))),
    "channels": QuantConfig(LayerSpec(activation=TensorSpec(8, granularity=PerChannel(-1)))),
    "heads": QuantConfig(LayerSpec(query=SIGNED, key=SIGNED, value=SIGNED), attention=True),
    "tokens": QuantConfig(LayerSpec(activation=TensorSpec(8, granularity=PerToken()))),
    "noise": fxquant.recipe("noisyquant", steps=4),
}


@functools.cache
def fake(config: str) -> fx.GraphModule:
    torch.manual_seed(0)
    prepared = fxquant.prepare(Attention().eval(), CONFIGS[config], torch.randn(4, 20, 16))
    fxquant.calibrate(prepared, [torch.randn(4, 20, 16)], progress=False)
    return fxquant.convert(prepared, "fake")


def standard(config: str, activations: torch.dtype) -> fx.GraphModule:
    gm = copy.deepcopy(fake(config))
    standard_quantizers(gm, activations)
    return gm


def makers(gm: fx.GraphModule) -> list[fx.Node]:
    """Return what makes codes of values, in order."""
    return [
        n
        for n in gm.graph.nodes
        if n.target in (quantize, quantize_tokens) or str(n.target).startswith("quantized_decomposed.quantize")
    ]


def constants_of(quantizer: fx.Node) -> Any:
    """Return scales and zero points, with what says along which axis they run."""
    return fx.map_arg(quantizer.args[1:-3], tensor_of)


class Kept(fx.Interpreter):
    """Keeps what each node gives."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)

    def of(self, nodes: Any) -> Any:
        """Return the values of `nodes`, which may be nested."""
        return fx.map_arg(nodes, lambda n: self.env[n])


@pytest.mark.parametrize("activations", [torch.int8, torch.uint8])
@pytest.mark.parametrize("config", CONFIGS)
def test_codes_of_every_site(config: str, activations: torch.dtype) -> None:
    gm, other = fake(config), standard(config, activations)
    run = Kept(gm)
    sites = list(zip(makers(gm), makers(other), strict=True))
    assert sites
    with torch.no_grad():
        run.run(torch.randn(16, 20, 16))
        for ours, theirs in sites:
            given = run.of(arguments_of(ours))
            x = given["x"] if given.get("noise") is None else add_noise(given["x"], given["noise"])
            tokens = ours.target is quantize_tokens
            constants = STANDARD.choose_qparams_per_token_asymmetric(x, torch.int8) if tokens else constants_of(theirs)
            least, most, dtype = cast(tuple[int, int, torch.dtype], theirs.args[-3:])
            codes = cast(Any, theirs.target)(x, *constants, least, most, dtype)
            expected = run.of(ours)[0] if tokens else run.of(ours)
            shift = least - (given["qmin"] - storage_offset(given["qmax"]))
            assert codes.dtype is dtype is (torch.int8 if tokens else activations)
            assert most - least == given["qmax"] - given["qmin"]
            difference = (codes.int() - expected.int() - shift).abs()
            assert int(difference.max()) <= 1
            assert float(difference.float().mean()) < 1e-3  # where a value lies on the edge between two codes


def test_values_of_codes_are_the_same() -> None:
    x = torch.randn(2, 20, 16)
    with torch.no_grad():
        assert torch.equal(standard("affine", torch.uint8)(x), fake("affine")(x))


def test_weights_are_int8_whatever_activations_are() -> None:
    weights = [n for n in standard("affine", torch.uint8).graph.nodes if "dequantize_per_channel" in str(n.target)]
    assert [n.args[3:] for n in weights] == [(0, -128, 127, torch.int8)] * 2


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (LayerSpec(softmax=fxquant.TwinSoftmax()), "quantize_twin"),
        (LayerSpec(softmax=fxquant.Log2(4)), "quantize_log2"),
        (LayerSpec(activation=TensorSpec(8, True, True, PerToken())), "in module norm: quantize_tokens"),
        (LayerSpec(activation=TensorSpec(6, granularity=PerToken())), "in module the root: quantize_tokens"),
    ],
)
def test_refuses_others_by_name(layer: LayerSpec, found: str) -> None:
    config = QuantConfig(layer, attention="quantize_tokens" not in found)
    prepared = fxquant.prepare(Attention().eval(), config, torch.randn(4, 20, 16))
    fxquant.calibrate(prepared, [torch.randn(4, 20, 16)], progress=False)
    gm = fxquant.convert(prepared, "fake")
    before = gm.print_readable(print_output=False)
    with pytest.raises(UnsupportedGraphError, match=found):
        standard_quantizers(gm, torch.int8)
    assert gm.print_readable(print_output=False) == before
