"""Attention outputs are found from the data flow, and the tokens that are no patches with them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.synthesis.contexts import ContextGraph, expose_contexts
from tests.support.models import SIZE, images, small_swin, small_vit


def timm_model(name: str, **options: object) -> nn.Module:
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
    return timm.create_model(name, img_size=SIZE, **small, **options).eval()  # type: ignore[no-any-return]


def exposed(model: nn.Module, batch: int = 2, published: bool = False) -> ContextGraph:
    return expose_contexts(fxquant.trace(model), torch.zeros(batch, 3, SIZE, SIZE), published)


def facts(graph: ContextGraph) -> list[tuple[int, int, int]]:
    return [(site.prefix, site.tokens, site.windows) for site in graph.sites]


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (small_vit, [(1, 16, 1)] * 2),
        (lambda: timm_model("deit_tiny_distilled_patch16_224"), [(2, 16, 1)] * 2),
        (lambda: small_vit(class_token=False, global_pool="avg"), [(0, 16, 1)] * 2),
        (lambda: small_vit(reg_tokens=4, no_embed_class=True), [(5, 16, 1)] * 2),
        (lambda: timm_model("cait_xxs24_224"), [(0, 16, 1)] * 2),  # a linear layer mixes the heads of the probabilities
        (small_swin, [(0, 16, 16)] * 2 + [(0, 16, 4)] * 2),
    ],
)
def test_prefix_tokens_and_windows(build: Callable[[], nn.Module], wanted: list[tuple[int, int, int]]) -> None:
    graph = exposed(build())
    assert facts(graph) == wanted
    assert graph.windowed == (wanted[0][2] > 1)
    assert graph.classes == 10


def test_published_drops_one_token_everywhere() -> None:
    assert facts(exposed(small_swin(), published=True)) == [(1, 15, 16)] * 2 + [(1, 15, 4)] * 2
    assert facts(exposed(timm_model("deit_tiny_distilled_patch16_224"), published=True)) == [(1, 17, 1)] * 2


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v


class Opened(nn.Module):
    """One block that writes its attention out, with names that say nothing; tokens join as `join` wants."""

    def __init__(self, patches: int = 16, fused: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.six = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 24), nn.Linear(8, 5)
        self.three = nn.Parameter(torch.randn(1, 2, 8))
        self.patches, self.fused = patches, fused

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.one(x).flatten(2).transpose(1, 2)[:, : self.patches]
        tokens = torch.cat([self.three.expand(x.shape[0], -1, -1), tokens], 1)
        q, k, v = self.two(tokens).reshape(tokens.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attend = F.scaled_dot_product_attention if self.fused else _attend
        context = attend(q, k, v)
        return self.six(context.transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


def test_fused_and_opened_attention_give_the_same_context() -> None:
    torch.manual_seed(0)
    model = Opened().eval()
    fused = copy.deepcopy(model)
    fused.fused = True
    x = images(2)
    outputs = [exposed(m).gm(x) for m in (model, fused)]
    for found, other in zip(*outputs, strict=True):
        torch.testing.assert_close(found, other)
    torch.testing.assert_close(outputs[0][0], model(x))
    assert outputs[0][1].shape == (2, 2, 18, 4)
    assert facts(exposed(model)) == facts(exposed(fused)) == [(2, 16, 1)]


def test_blocks_of_a_single_patch_are_left_out() -> None:
    with pytest.raises(UnsupportedGraphError, match="at least two patches; this model has none"):
        exposed(Opened(patches=1).eval())


def test_the_graph_that_is_given_stays_as_it_is() -> None:
    model = small_vit()
    gm = fxquant.trace(model)
    code, x = gm.code, images(2)
    wanted = model(x)
    graph = expose_contexts(gm, torch.zeros(2, 3, SIZE, SIZE))
    assert gm.code == code
    assert all(p.requires_grad for p in (*model.parameters(), *gm.parameters()))
    assert not any(p.requires_grad for p in graph.gm.parameters())
    shared = {p.data_ptr() for p in gm.parameters()}
    assert all(p.data_ptr() in shared for p in graph.gm.parameters())
    graph.gm.bfloat16()
    assert all(p.dtype is torch.float32 for p in gm.parameters())
    assert torch.equal(model(x), wanted)
    assert not any("val" in n.meta for n in gm.graph.nodes)


def test_models_that_have_no_logits_or_no_attention_are_refused() -> None:
    with pytest.raises(InputError, match="which are features"):
        exposed(small_vit(num_classes=0))
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(UnsupportedGraphError, match="gaussian_images"):
        exposed(convolutional)
    with pytest.raises(InputError, match=r"gives \(2, 4, 4, 4\), which are features"):
        exposed(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.LayerNorm((4, 4, 4))).eval())


def test_an_output_in_a_dictionary_is_taken_out() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_vit()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x)}

    model, x = Wrapped().eval(), images(2)
    gm = fxquant.trace(model)
    assert isinstance(gm, fx.GraphModule)
    torch.testing.assert_close(expose_contexts(gm, x).gm(x)[0], model(x)["logits"])
