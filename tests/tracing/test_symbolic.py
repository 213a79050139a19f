"""What can be traced, that the graph is the model bit for bit, and how a model that cannot be traced is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import InputError, UnsupportedGraphError
from fxquant.graph.meta import module_path
from tests.support.check_pass import module_of

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
WINDOWS = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_tiny_patch16_224", PLAIN),
    "DeiT": ("deit_tiny_patch16_224", PLAIN),
    "DeiT distilled": ("deit_tiny_distilled_patch16_224", PLAIN),
    "DeiT-3": ("deit3_small_patch16_224", PLAIN),
    "Swin": ("swin_tiny_patch4_window7_224", WINDOWS),
    "SwinV2": ("swinv2_tiny_window8_256", WINDOWS),
    "BEiT": ("beit_base_patch16_224", PLAIN),
    "EVA-02": ("eva02_tiny_patch14_224", PLAIN),
    "DINOv2": ("vit_small_patch14_dinov2", PLAIN),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", PLAIN),
    "DINOv3": ("vit_small_patch16_dinov3", PLAIN),
    "SigLIP": ("vit_base_patch16_siglip_224", PLAIN),
    "CLIP": ("vit_base_patch16_clip_224", PLAIN),
    "CaiT": ("cait_xxs24_224", PLAIN),
    "PiT": (
        "pit_ti_224",
        {"img_size": 32, "patch_size": 8, "stride": 4, "base_dims": (16,) * 3, "depth": (1,) * 3, "heads": (1, 2, 2)},
    ),
    "PVTv2": ("pvt_v2_b0", {"embed_dims": (8, 16, 24, 32), "depths": (1,) * 4, "num_heads": (1, 2, 2, 4)}),
    "DaViT": ("davit_tiny", {"embed_dims": (16, 32), "depths": (1, 1), "num_heads": (2, 4), "window_size": 4}),
    "GCViT": ("gcvit_xxtiny", {"img_size": 64, "window_size": (2, 2, 4, 2), "embed_dim": 16}),
}


class Hybrid(nn.Module):
    """A model of one's own: a stem with batch norm, two tokens in front, in-place operators, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.tokens = nn.Parameter(torch.randn(1, 2, 8))
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(8))
        self.body, self.norm = nn.ModuleList(nn.Linear(8, 8) for _ in range(2)), nn.LayerNorm(8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], dim=1) * self.scale
        for layer in self.body:
            x = x + layer(self.norm(x))
            x += torch.arange(8.0)
        return {"first": x[:, 0], "second": x[:, 1]}


def small(family: str) -> nn.Module:
    name, options = FAMILIES[family]
    model: nn.Module = timm.create_model(name, **options)
    return model.eval()


def assert_equal_for_any_batch(model: nn.Module, gm: fx.GraphModule, size: int) -> None:
    for batch in (1, 3, 5):
        x = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(gm(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_trace_bit_exactly_with_a_free_batch_size(family: str) -> None:
    model = small(family)
    gm = fxquant.trace(model)
    assert {n.op for n in gm.graph.nodes} <= {"placeholder", "get_attr", "call_function", "call_method", "output"}
    assert_equal_for_any_batch(model, gm, FAMILIES[family][1].get("img_size", 64))


def test_a_model_of_ones_own_traces_bit_exactly() -> None:
    torch.manual_seed(0)
    model = Hybrid()
    model(torch.randn(4, 3, 16, 16))  # gives the batch norm statistics
    model.eval()
    assert_equal_for_any_batch(model, fxquant.trace(model), 16)


def test_nodes_know_their_module_and_source_line() -> None:
    gm = fxquant.trace(small("ViT"))
    paths = [module_path(n) for n in gm.graph.nodes if n.target is F.linear]
    assert paths[:4] == ["blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    assert paths[-1] == "head"
    assert all("forward" in (n.stack_trace or "") for n in gm.graph.nodes if n.target is F.linear)


def test_example_inputs_give_every_node_its_shape() -> None:
    gm = fxquant.trace(small("ViT"), torch.randn(2, 3, 32, 32))
    shapes = {module_path(n): tuple(n.meta["val"].shape) for n in gm.graph.nodes if n.target is F.linear}
    assert shapes["blocks.0.attn.qkv"] == (2, 17, 96)
    assert all("val" in n.meta for n in gm.graph.nodes if n.op != "output")


def test_a_traced_graph_can_be_traced_again() -> None:
    model = small("ViT")
    assert_equal_for_any_batch(model, fxquant.trace(fxquant.trace(model)), 32)
    assert_equal_for_any_batch(model, fxquant.trace(fx.symbolic_trace(model)), 32)


@pytest.mark.parametrize("make", [Hybrid, lambda: small("Swin")])
def test_the_model_is_left_as_it_is(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    known, tensors, modules = set(vars(model)), copy.deepcopy(model.state_dict()), [n for n, _ in model.named_modules()]
    state = torch.get_rng_state()
    fxquant.trace(model)
    assert set(vars(model)) == known
    assert [n for n, _ in model.named_modules()] == modules
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), tensors, rtol=0, atol=0)


class Caching(nn.Module):
    """Keeps what it computed for its next call, in an attribute, a dictionary and a list; the batch is not in it."""

    def __init__(self, branch: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.branch = nn.Linear(4, 4), branch
        self.cache: Tensor | None = None
        self._scales: dict[str, Any] = {"known": []}

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = torch.arange(x.shape[1], dtype=x.dtype)
            self._scales["new"] = torch.full((x.shape[1],), 2.0)
            self._scales["known"].append(x.shape)
        y: Tensor = self.fc(x + self.cache) * self._scales["new"]
        return -y if self.branch(y) else y


@pytest.mark.parametrize(
    ("branch", "follows"), [(lambda y: y.shape[1] > 3, False), (lambda y: y.sum() > 0, False), (lambda y: True, True)]
)
def test_no_module_keeps_a_proxy(branch: Callable[[Tensor], Any], follows: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(Caching(branch))).eval()
    caching, x = model.get_submodule("0.0"), torch.randn(3, 4)
    expected = copy.deepcopy(model)(x)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with nullcontext() if follows else pytest.raises(UnsupportedGraphError, match=r"module 0.0 \(Caching\)"):
        assert torch.equal(fxquant.trace(model)(x), expected)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert caching.cache is None
    assert caching._scales == {"known": []}
    assert torch.equal(model(x), expected)
    assert isinstance(caching.cache, Tensor)


def test_a_forward_of_the_module_itself_is_the_one_traced() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(2, 4)
    model.forward = lambda images: F.linear(images, model.weight) * 3  # type: ignore[method-assign, assignment]
    gm = fxquant.trace(model)
    assert [n.target for n in gm.graph.nodes if n.op == "placeholder"] == ["images"]
    assert torch.equal(gm(x), F.linear(x, model.weight) * 3)


def test_optional_arguments_keep_their_defaults() -> None:
    def forward(self: Any, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        return x * scale if mask is None else x * mask

    gm = fxquant.trace(module_of(forward))
    assert [n.target for n in gm.graph.nodes if n.op == "placeholder"] == ["x"]
    x = torch.randn(2, 3)
    assert torch.equal(gm(x), x * 2)


def test_two_inputs_and_keyword_only_arguments() -> None:
    def forward(self: Any, x: Tensor, y: Tensor, *rest: Tensor, flag: bool = True, **options: Any) -> Any:
        return (x + y if flag else x), {"y": y}

    gm = fxquant.trace(module_of(forward))
    x, y = torch.randn(2), torch.randn(2)
    torch.testing.assert_close(gm(x, y), (x + y, {"y": y}), rtol=0, atol=0)


def test_tensors_made_on_the_way_move_with_the_model() -> None:
    gm = fxquant.trace(module_of(lambda self, x: x + torch.arange(4.0)))
    assert [tuple(b.shape) for b in gm.buffers()] == [(4,)]
    assert gm.to("meta")(torch.zeros(4, device="meta")).is_meta


class Router(nn.Module):
    """Looks at the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)  # type: ignore[no-any-return]
        return x


def test_a_branch_on_values_names_the_module_and_the_line() -> None:
    with pytest.raises(UnsupportedGraphError) as raised:
        fxquant.trace(nn.Sequential(nn.Linear(4, 4), nn.Sequential(Router())).eval())
    message = str(raised.value)
    line = Router.forward.__code__.co_firstlineno + 1
    assert "module 1.0 (Router)" in message
    assert f'test_symbolic.py:{line}: "if x.sum() > 0:"' in message
    assert "example_inputs" in message


def test_a_branch_in_the_model_itself_names_the_root() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"module the root \(Router\).*if x.sum\(\) > 0"):
        fxquant.trace(Router().eval())


def _draws(self: Any, x: Tensor) -> Tensor:
    return x + torch.rand(4)


def _draws_and_branches(self: Any, x: Tensor) -> Tensor:
    return x + torch.rand(4) if x.sum() + torch.rand(()) > 0 else x


def _counts(self: Any, x: Tensor) -> Tensor:
    return x * self.count.add_(1)  # type: ignore[no-any-return]


def _writes(self: Any, x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_draws, "draws random numbers"),
        (_draws_and_branches, "if x.sum"),
        (_counts, "buffer 'count'"),
        (_writes, "item as"),
    ],
)
def test_refuses_what_tracing_would_get_wrong(forward: Any, reason: str) -> None:
    model = module_of(forward)
    model.register_buffer("count", torch.zeros(()))
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedGraphError, match=reason):
        fxquant.trace(model)
    assert float(model.get_buffer("count")) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_refuses_training_mode_and_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)).eval()
    model[1].train()
    for given in (model, fx.symbolic_trace(model)):
        with pytest.raises(InputError, match=r"module '1' in training mode: call model.eval\(\)"):
            fxquant.trace(given)
    with pytest.raises(InputError, match=r"module 'Sequential' in training mode"):
        fxquant.trace(model.train())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_refuses_other_dtypes_and_names_the_tensor(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4).to(dtype)).eval()
    with pytest.raises(InputError, match=rf"found {dtype} in '0.weight'"):
        fxquant.trace(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_trace(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval().to(dtype)
    x = torch.randn(3, 4, dtype=dtype)
    assert torch.equal(fxquant.trace(model)(x), model(x))


def test_refuses_what_is_no_module() -> None:
    with pytest.raises(InputError, match=r"expected a torch.nn.Module, found function"):
        fxquant.trace(lambda x: x)  # type: ignore[arg-type]
