"""`fuse_attention` reads attention back from the codes of its merged heads, and leaves what depends on anything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import LayerSpec, PerChannel, PerToken, QuantConfig, TensorSpec
from fxquant.graph.meta import Product, record_of
from fxquant.graph.stages import Stage
from fxquant.kernels import use_backend
from fxquant.ops import attention, attention_quantize, quantize_tokens
from fxquant.passes.fuse_attention import fuse_attention
from tests.support.check_pass import check_pass, check_unchanged, render
from tests.support.lowered import lowered

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 5, 8, generator=GENERATOR)  # (B, N, C), 2 heads of width 4
BIAS, MASK = torch.randn(2, 5, 5, generator=GENERATOR), torch.zeros(2, 5, 5)
MASK[1, :3, 3:] = -float("inf")


class Attention(nn.Module):
    """Attention that stays float between two int8 layers; `attend` takes it from q, k and v ``(B, H, N, D)``."""

    def __init__(self, attend: Any, merge: Any = None, **tensors: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj, self.attend = nn.Linear(8, 24), nn.Linear(8, 8), attend
        self.merge = merge or (lambda y: y.transpose(1, 2).reshape(-1, 5, 8))
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.attend(self, q, k, v)
        y, *others = y if isinstance(y, tuple) else (y,)
        return (self.proj(self.merge(y)), *others) if others else self.proj(self.merge(y))


def fused(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def scaled(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=0.25)


def opened(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax((q * 0.5) @ k.transpose(-2, -1), -1) @ v


def scaled_scores(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(3, 2) * 0.5 * 0.25, dim=-1) @ v


def biased(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax((q * 0.5) @ k.transpose(-2, -1) + module.bias, -1) @ v


def scaled_and_biased(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-2, -1) * 0.5 + module.bias, -1) @ v


def windowed(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * 0.5) @ k.transpose(-2, -1) + module.bias.unsqueeze(0)
    scores = scores.view(-1, 2, 2, 5, 5) + module.mask[None, :, None]
    return F.softmax(scores.view(-1, 2, 5, 5), -1) @ v


FORMS: dict[str, tuple[Any, dict[str, Tensor], str]] = {
    "fused": (fused, {}, "0.5, None, None"),
    "fused, scale": (scaled, {}, "0.25, None, None"),
    "open": (opened, {}, "0.5, None, None"),
    "scaled scores": (scaled_scores, {}, "0.125, None, None"),
    "scaled scores and a bias": (scaled_and_biased, {"bias": BIAS}, "0.5, bias, None"),
    "bias per head": (biased, {"bias": BIAS}, "0.5, bias, None"),
    "bias per head of every image": (biased, {"bias": BIAS[None]}, "0.5, matmul.attention_attention_bias, None"),
    "one bias": (biased, {"bias": BIAS[None, :1]}, "0.5, matmul.attention_attention_bias, None"),
    "windows": (
        windowed,
        {"bias": BIAS, "mask": MASK},
        "0.5, matmul.attention_attention_bias, matmul.attention_attention_mask",
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forms_of_attention(name: str, dtype: torch.dtype) -> None:
    attend, tensors, arguments = FORMS[name]
    x = X.to(dtype)
    with use_backend("aten"):
        gm = check_pass(
            fuse_attention,
            lowered(Attention(attend, **tensors).to(dtype), x),
            (x,),
            after=f"""
                (x)
                check_input = check_input(x, (None, None, 8), 'x')
                quantize = quantize(check_input, qkv.input_scale, qkv.input_zero_point, 0, 255)
                int8_linear = int8_linear(quantize, qkv.weight_int8, qkv.scale, qkv.bias_folded, None, None, {dtype}, True)
                reshape = int8_linear.reshape(-1, 5, 3, 2, 4)
                permute = reshape.permute(2, 0, 3, 1, 4)
                unbind = permute.unbind(0)
                getitem = unbind[0]
                getitem_1 = unbind[1]
                getitem_2 = unbind[2]
                attention_quantize = attention_quantize(getitem, getitem_1, getitem_2, {arguments}, \
proj.input_scale, proj.input_zero_point, 0, 255)
                int8_linear_1 = int8_linear(attention_quantize, proj.weight_int8, proj.scale, proj.bias_folded, None, None, \
{dtype}, True)
                return int8_linear_1
            """,
            stage=Stage.LOWERED,
            tolerance=1e-5 if dtype is torch.float32 else 3e-2,
        )
        for batch in (0, 2, 6):
            assert gm(X[:1].to(dtype).repeat(batch, 1, 1)).shape == (batch, 5, 8)
    (node,) = [n for n in gm.graph.nodes if n.target is attention_quantize]
    record = record_of(node)
    assert record is not None
    assert record.product is Product.ATTENTION
    assert [o.name.rpartition(".")[2] for o in record.operands] == ["query", "key", "value"], "one for each argument"
    assert node.meta["val"].dtype is torch.int8


def test_codes_with_a_scale_per_token_are_made_of_the_merged_heads() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerToken())))
    with use_backend("aten"):
        original = lowered(Attention(fused), X, config)
        wanted, gm = original(X), fuse_attention(original).graph_module
        torch.testing.assert_close(gm(X), wanted)
        check_unchanged(fuse_attention, gm, (X,), stage=Stage.LOWERED)
    (node,) = [n for n in gm.graph.nodes if n.target is attention]
    assert [user.target for user in node.users] == [quantize_tokens]
    assert node.meta["val"].shape == X.shape
    (record,) = [r for r in fxquant.report(gm) if r.product == "attention"]
    assert (record.int8, record.output_shape) == (False, tuple(X.shape))


def test_noise_goes_along() -> None:
    gm = lowered(Attention(fused), X, noise=8)
    expected = gm(X)
    with use_backend("aten"):
        result = fuse_attention(gm)
        (node,) = [n for n in gm.graph.nodes if n.target is attention_quantize]
        assert str(node.args[-1].target) == "proj.input_noise"
        assert (result.graph_module(X) - expected).norm() <= 1e-5 * expected.norm()


def _own(change: Any) -> Any:
    """Return attention whose scores ``(B, H, N, N)`` go through `change(module, scores)`."""

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.softmax(change(module, (q * 0.5) @ k.transpose(-2, -1)), -1) @ v

    return attend


def _causal(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _masked(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=module.mask)


def _read_context(module: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    y = F.scaled_dot_product_attention(q, k, v)
    return y, y.mean(1)


def _read_probabilities(module: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    p = F.softmax(q @ k.transpose(-2, -1), -1)
    return p @ v, p


def _read_scores(module: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    scores = q @ k.transpose(-2, -1)
    return F.softmax(scores, -1) @ v, scores


def _over_queries(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-2, -1), -2) @ v


def _in_float64(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-2, -1), -1, dtype=torch.float64).float() @ v


def _linear(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) @ v


def _of_one_image(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:1], v[:1])


def _of_one_head(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k[:, :1].transpose(-2, -1), -1) @ v[:, :1]


def _latent(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(module.latent, k, v)


def _regrouped(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).view(-1, 1, 5, 5) + module.bias[:1]
    return F.softmax(scores.view(-1, 2, 5, 5), -1) @ v


def _windows_of_heads(module: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)).view(-1, 2, 1, 5, 5) + module.mask[None, :, None]
    return F.softmax(scores.view(-1, 2, 5, 5), -1) @ v


BOOLEAN = MASK[:1] == 0
NEAR_MISSES: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "causal": (_causal, {}),
    "a mask of the fused operator": (_masked, {"mask": MASK[:1]}),
    "a boolean mask": (_masked, {"mask": BOOLEAN}),
    "scores filled by a boolean mask": (
        _own(lambda m, s: s.masked_fill(~m.mask, -float("inf"))),
        {"mask": BOOLEAN},
    ),
    "a computed bias": (_own(lambda m, s: s + s.mean(-1, keepdim=True)), {}),
    "a bias that depends on the input": (_own(lambda m, s: s + m.bias * s.amax()), {"bias": BIAS}),
    "a weighted bias": (_own(lambda m, s: torch.add(s, m.bias, alpha=2)), {"bias": BIAS}),
    "a bias per image": (_own(lambda m, s: s + m.bias), {"bias": BIAS[None].repeat(4, 1, 1, 1)}),
    "a bias per key": (_own(lambda m, s: s + m.bias), {"bias": BIAS[:, :1]}),
    "a bias twice": (_own(lambda m, s: s + m.bias + m.bias), {"bias": BIAS}),
    "a bias that is scaled": (_own(lambda m, s: (s + m.bias) * 0.5), {"bias": BIAS}),
    "a bias of regrouped heads": (_regrouped, {"bias": BIAS}),
    "windows among heads": (_windows_of_heads, {"mask": MASK}),
    "a learned temperature": (_own(lambda m, s: s * m.bias), {"bias": BIAS}),
    "a capped score": (_own(lambda m, s: torch.tanh(s)), {}),
    "a negative scale": (_own(lambda m, s: s * -1.0), {}),
    "other readers of the context": (_read_context, {}),
    "other readers of the probabilities": (_read_probabilities, {}),
    "other readers of the scores": (_read_scores, {}),
    "a softmax over queries": (_over_queries, {}),
    "a softmax in float64": (_in_float64, {}),
    "no softmax": (_linear, {}),
    "keys of one image": (_of_one_image, {}),
    "keys of one head": (_of_one_head, {}),
    "learned queries": (_latent, {"latent": torch.randn(1, 2, 5, 4, generator=GENERATOR)}),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses(name: str) -> None:
    attend, tensors = NEAR_MISSES[name]
    check_unchanged(fuse_attention, lowered(Attention(attend, **tensors), X), (X,), Stage.LOWERED)


def test_learned_queries_of_the_one_image_of_calibration() -> None:
    latent = torch.randn(1, 2, 5, 4, generator=GENERATOR)
    module = Attention(_latent, lambda y: y.transpose(1, 2).flatten(2), latent=latent)
    check_unchanged(fuse_attention, lowered(module, X[:1]), (X,), Stage.LOWERED)


MERGES = {
    "heads that are not merged": lambda y: y.transpose(1, 2).reshape(-1, 8, 5).transpose(1, 2),
    "tokens side by side": lambda y: y.transpose(1, 2).reshape(-1, 10, 4).reshape(-1, 5, 8),
    "heads without a transposition": lambda y: y.reshape(-1, 5, 8),
    "a computation": lambda y: (y * 2).transpose(1, 2).reshape(-1, 5, 8),
}


@pytest.mark.parametrize("name", MERGES)
def test_other_ends(name: str) -> None:
    gm = lowered(Attention(fused, MERGES[name]), X)
    check_unchanged(fuse_attention, gm, (X,), Stage.LOWERED)


def test_scales_per_channel_stay() -> None:
    config = QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))))
    check_unchanged(fuse_attention, lowered(Attention(fused), X, config), (X,), Stage.LOWERED)


@pytest.mark.parametrize("attend", [fused, opened])
def test_quantised_attention_stays(attend: Any) -> None:
    gm = lowered(Attention(attend), X, QuantConfig(attention=True))
    assert "int8_matmul" in render(gm)
    check_unchanged(fuse_attention, gm, (X,), Stage.LOWERED)


def test_half_of_attention_quantised_stays() -> None:
    config = QuantConfig(LayerSpec(query=None, key=None), attention=True)
    check_unchanged(fuse_attention, lowered(Attention(opened), X, config), (X,), Stage.LOWERED)


def test_unknown_shapes_stay() -> None:
    gm = lowered(Attention(fused), X)
    for node in gm.graph.nodes:
        node.meta.pop("val", None)
    check_unchanged(fuse_attention, gm, (X,), Stage.LOWERED)
