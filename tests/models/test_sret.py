"""SReT: a second computation from the description, the published logits, sharing, orders, tracing, int8, checkpoints."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import fxquant
from fxquant import ConfigError, InputError
from fxquant.data import resolve_data_config
from fxquant.models import SReT, sret_lt, sret_s, sret_t
from fxquant.models.sret import checkpoint_filter_fn
from fxquant.models.sret_blocks import Permutation
from fxquant.models.timm_model import build_timm_model, load_checkpoint

RECORDED = Path(__file__).parents[1] / "data" / "vvtq_step_sret.safetensors"
SMALL: dict[str, Any] = {
    "image_size": 64,
    "base_dims": (8, 8, 8),
    "heads": (2, 4, 8),
    "depth": (4, 2, 2),
    "recursive_num": (2, 1, 1),
    "num_classes": 5,
    "groups1": (8, 4, 1),
    "groups2": (2, 1, 1),
}
TWO: dict[str, Any] = {
    "base_dims": (8, 8),
    "heads": (2, 4),
    "depth": (2, 2),
    "recursive_num": (1, 1),
    "groups1": (8, 1),
    "groups2": (2, 1),
}
UNSLICED = {"groups1": (1, 1, 1), "groups2": (1, 1, 1)}
QKV = "transformers.0.blocks.{}.attn.qkv.weight"


def small(**options: Any) -> SReT:
    """Return a small model with random values in every parameter and statistic."""
    torch.manual_seed(0)
    model = SReT(**{**SMALL, **options})
    with torch.no_grad():
        for name, p in model.named_parameters():
            factor = "coefficient" in name or (p.dim() == 1 and name.endswith("weight"))
            p.normal_(1.0 if factor else 0.0, 0.2)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(0.0, 0.2)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0)
    return model.eval()


def images_for(model: SReT, batch: int = 2) -> Tensor:
    side = 8 * model.pos_embed.shape[-1]
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))


def orders_of(model: SReT) -> list[Tensor]:
    return [m.order.clone() for m in model.modules() if isinstance(m, Permutation)]


# The same again, from the description: float64, loops over taps, slices, heads and tokens ---------------------------------

Rounding = Callable[[str, Tensor], Tensor]


class Recomputed:
    """
    The network from its weights, their names and the description.

    Of a block that stands at several positions it reads the first. `rounded` is told where each value that the published
    quantisation rounds is used, in its names.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        options: Mapping[str, Any],
        orders: Sequence[Tensor],
        rounded: Rounding = lambda site, x: x,
    ) -> None:
        self.w = {name: t.double() for name, t in weights.items()}
        for name in [name for name in self.w if ".attn.qkv." in name]:
            for letter, part in zip("qkv", self.w.pop(name).chunk(3), strict=True):
                self.w[name.replace("qkv", f"proj_{letter}")] = part
        self.options, self.orders, self.rounded = options, orders, rounded

    def weight(self, name: str) -> Tensor:
        return self.rounded(name, self.w[f"{name}.weight"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return torch.einsum("...k,ok->...o", x, self.weight(name)) + self.w[f"{name}.bias"]

    def conv(self, x: Tensor, name: str, per_channel: bool = False) -> Tensor:
        weight, side, total = self.weight(name), (x.shape[-1] + 1) // 2, x.new_zeros(())
        padded = F.pad(x, (1, 1, 1, 1))
        if per_channel:
            padded = padded.repeat_interleave(len(weight) // x.shape[1], 1)
        for dy in range(3):
            for dx in range(3):
                seen = padded[:, :, dy : dy + 2 * side - 1 : 2, dx : dx + 2 * side - 1 : 2]
                tap = weight[:, :, dy, dx]
                total = total + (
                    seen * tap[:, 0, None, None] if per_channel else torch.einsum("nchw,oc->nohw", seen, tap)
                )
        return total + self.w[f"{name}.bias"][:, None, None]

    def stem(self, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = self.conv(self.rounded(f"patch_embed.quant{i}", x), f"patch_embed.conv{i}")
            w, b, mean, var = (
                self.w[f"patch_embed.bn{i}.{name}"][:, None, None]
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            x = ((x - mean) / (var + 1e-5).sqrt() * w + b).clamp(min=0)
        return x

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return normed * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def mlp(self, x: Tensor, name: str) -> Tensor:
        hidden = self.linear(self.rounded(f"{name}.quant1", x), f"{name}.fc1")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        return self.linear(self.rounded(f"{name}.quant2", hidden), f"{name}.fc2")

    def attention(self, x: Tensor, name: str, heads: int, slices: int, order: Tensor | None) -> Tensor:
        places = list(range(x.shape[1])) if order is None else order.tolist()
        x = self.rounded(f"{name}.quant_input", torch.stack([x[:, place] for place in places], 1))
        q, k, v = (self.rounded(f"{name}.quant_{c}", self.linear(x, f"{name}.proj_{c}")) for c in "qkv")
        n, width, context = x.shape[1] // slices, x.shape[2] // heads, torch.zeros_like(x)
        for s in range(slices):
            for h in range(heads):
                at = (slice(None), slice(s * n, (s + 1) * n), slice(h * width, (h + 1) * width))
                weights = (q[at] @ k[at].mT / math.sqrt(width)).exp()
                context[at] = self.rounded(f"{name}.quant_attn", weights / weights.sum(-1, keepdim=True)) @ v[at]
        out = torch.zeros_like(x)
        for i, place in enumerate(places):
            out[:, place] = self.rounded(f"{name}.quant_output", context[:, i])
        return self.linear(out, f"{name}.proj")

    def stage(self, x: Tensor, s: int, orders: list[Tensor]) -> Tensor:
        heads, depth, blocks = (self.options[key][s] for key in ("heads", "depth", "recursive_num"))
        name, times = f"transformers.{s}.blocks", depth // blocks
        for i in range(depth):
            block, behind = f"{name}.{2 * times * (i // times)}", f"{name}.{2 * i + 1}"
            again = (2 * i + 2) % 4 == 0
            slices = self.options["groups2" if again else "groups1"][s]
            order = orders.pop(0) if again and slices > 1 else None
            c = [self.w[f"{block}.coefficient{j}.bias"] for j in (1, 2, 3, 4)]
            x = c[0] * x + c[1] * self.attention(self.norm(x, f"{block}.norm1"), f"{block}.attn", heads, slices, order)
            x = c[2] * x + c[3] * self.mlp(self.norm(x, f"{block}.norm2"), f"{block}.mlp")
            c = [self.w[f"{behind}.coefficient{j}.bias"] for j in (1, 2)]
            x = c[0] * x + c[1] * self.mlp(self.norm(x, f"{behind}.norm1"), f"{behind}.mlp")
        return x

    def logits(self, images: Tensor) -> Tensor:
        orders = list(self.orders)
        x = self.stem(images.double()) + self.w["pos_embed"]
        for s in range(len(self.options["depth"])):
            if s:
                x = self.conv(self.rounded(f"pools.{s - 1}.quant", x), f"pools.{s - 1}.conv", per_channel=True)
            side = x.shape[-1]
            tokens = torch.stack([x[:, :, i // side, i % side] for i in range(side**2)], 1)
            tokens = self.stage(tokens, s, orders)
            x = torch.stack([tokens[:, i * side : (i + 1) * side] for i in range(side)], 1).permute(0, 3, 1, 2)
        assert not orders
        return self.linear(self.rounded("quant", self.norm(x.mean((2, 3)), "norm")), "head")


@pytest.mark.parametrize(
    "options",
    [
        {},
        UNSLICED,
        {"groups2": (4, 8, 2), "mlp_ratio": 2.3, "np_mlp_ratio": 2},
        {"image_size": 40, "groups1": (5, 3, 2), "groups2": (25, 1, 4), "base_dims": (8, 12, 12)},
        {"depth": (6, 4, 3), "recursive_num": (2, 1, 3), "groups2": (2, 2, 2)},
        {**TWO, "base_dims": (5, 5)},
    ],
)
@torch.no_grad()
def test_logits_follow_the_description(options: dict[str, Any]) -> None:
    model = small(**options)
    x = images_for(model)
    expected = Recomputed(model.state_dict(), {**SMALL, **options}, orders_of(model)).logits(x)
    torch.testing.assert_close(model.double()(x.double()), expected, rtol=1e-10, atol=1e-10)


# The published network, which was recorded with 4-bit weights and activations -----------------------------------------------


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Return the arguments of the model, its weights and all that was recorded of it."""
    recorded = load_file(RECORDED)
    with safe_open(RECORDED, "pt") as file:
        options = json.loads(file.metadata()["kwargs"])
    return options, {k.removeprefix("state/"): t for k, t in recorded.items() if k.startswith("state/")}, recorded


def rounding(scales: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> Rounding:
    """Return the published rounding with a scale, and for some an offset, for each of 2 to 8 bits."""

    def rounded(site: str, x: Tensor) -> Tensor:
        bits = 8 if site.startswith(("patch_embed", "pools", "head", "quant")) else 4
        scale = scales[site][bits - 2].double()
        offset = offsets[site][bits - 2].double() if site in offsets else 0
        unsigned = site.endswith(("attn.quant_attn", "mlp.quant2"))
        low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return ((x - offset) / scale).clamp(low, high).round() * scale + offset

    return rounded


@pytest.mark.parametrize("when", ["before", "after"])
@torch.no_grad()
def test_the_description_rounded_as_published_gives_the_published_logits(published: Any, when: str) -> None:
    options, state, recorded = published
    prefix = {"before": "w4a4_reg/alpha_init/", "after": "w4a4_reg/state_after/"}[when]
    found = {k.removeprefix(prefix): t for k, t in recorded.items() if k.startswith(prefix)}
    if when == "before":
        rounded = rounding(found, {})
    else:  # a training step later
        state = {name: found[name] for name in state}
        scales, offsets = (
            {k.removesuffix(f".{kind}"): t for k, t in found.items() if k.endswith(f".{kind}")}
            for kind in ("alpha", "beta")
        )
        rounded = rounding(scales, offsets)
    orders = [recorded[f"permutation/{i}"] for i in range(2)]
    logits = Recomputed(state, options, orders, rounded).logits(recorded["eval_images"].float())
    expected = recorded[f"w4a4_reg/logits_{when}"].double()
    assert (logits - expected).norm() < 1e-3 * expected.norm()


@torch.no_grad()
def test_the_published_weights_and_orders_give_the_same_logits_here(published: Any) -> None:
    options, state, recorded = published
    model, orders = SReT(**options).eval(), [recorded[f"permutation/{i}"] for i in range(2)]
    model.load_state_dict(state)
    model.set_permutations(orders)
    x = recorded["eval_images"].float()
    expected = Recomputed(state, options, orders).logits(x)
    torch.testing.assert_close(model.double()(x.double()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "millions", "widths", "hidden"),
    [
        (sret_t, 4.756, (64, 128, 256), (230, 460, 921)),
        (sret_lt, 5.0, (64, 128, 256), (256, 512, 1024)),
        (sret_s, 20.9, (126, 252, 504), (378, 756, 1512)),
    ],
)
def test_sizes_are_the_published_ones(build: Any, millions: float, widths: Any, hidden: Any) -> None:
    with torch.device("meta"):
        model = build()
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(count, len(str(millions).partition(".")[2])) == millions
    assert model.pos_embed.shape == (1, widths[0], 28, 28)
    assert [len(stage.blocks) for stage in model.transformers] == [8, 20, 12]
    assert tuple(stage.blocks[0].attn.proj.in_features for stage in model.transformers) == widths
    assert tuple(stage.blocks[0].mlp.fc1.out_features for stage in model.transformers) == hidden
    projections = {m.mlp.fc1.out_features for stage in model.transformers for m in stage.blocks[1::2]}
    assert projections == {(2 if build is sret_s else 1) * w for w in widths}
    assert [m.order.shape for m in model.modules() if isinstance(m, Permutation)] == [(784,), (784,)]
    assert all(m.order.is_meta for m in model.modules() if isinstance(m, Permutation))


# One block at several positions ----------------------------------------------------------------------------------------


def test_a_block_is_applied_twice_with_one_set_of_weights() -> None:
    model = small()
    stage: Any = model.transformers[0]
    assert stage.blocks[0] is stage.blocks[2]
    assert stage.blocks[4] is stage.blocks[6]
    assert len({id(block) for block in stage.blocks}) == 6
    gm = fxquant.trace(model)
    linears = [n for n in gm.graph.nodes if n.target is F.linear]
    used = [node.args[1].target for node in linears]
    assert used.count(QKV.format(0)) == used.count(QKV.format(4)) == 2
    assert QKV.format(2) not in used
    names = [name for name, _ in gm.named_parameters()]
    assert QKV.format(0) in names
    assert QKV.format(2) not in names
    with torch.no_grad():
        x = images_for(model)
        model.state_dict()[QKV.format(2)].zero_()
        assert not torch.equal(model(x), small()(x))
        assert not stage.blocks[0].attn.qkv.weight.any()


# The orders of the tokens ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_evaluation_is_the_same_every_time() -> None:
    model = small()
    x, state = images_for(model), torch.get_rng_state()
    first = model(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(x), first)
    assert torch.equal(model.train().eval()(x), first)
    assert torch.equal(small()(x), first)
    assert torch.equal(copy.deepcopy(model)(x), first)
    other = small(permutation_seed=1)
    assert other.state_dict().keys() == model.state_dict().keys()
    assert not torch.allclose(other(x), first, rtol=1e-3)
    other.set_permutations(orders_of(model))
    assert torch.equal(other(x), first)


def test_the_orders_are_the_same_with_every_version() -> None:
    generator = np.random.RandomState(0)
    assert Permutation(8, generator).order.tolist() == [6, 2, 1, 7, 3, 0, 5, 4]
    module = Permutation(784, generator)
    assert torch.equal(module.order[module.inverse], torch.arange(784))
    with torch.device("meta"):
        assert Permutation(784, generator).inverse.is_meta
    assert not module.state_dict()


@torch.no_grad()
def test_training_draws_orders_at_each_forward() -> None:
    model = small().train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()  # statistics that stay
    x, fixed = images_for(model), orders_of(model)
    torch.manual_seed(1)
    first, second = model(x), model(x)
    assert not torch.allclose(first, second, rtol=1e-3)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)
    assert all(torch.equal(a, b) for a, b in zip(orders_of(model), fixed, strict=True))
    torch.manual_seed(1)
    drawn = [torch.randperm(64), torch.randperm(64)]
    model.eval().set_permutations(drawn)
    assert torch.equal(model(x), first)


@torch.no_grad()
def test_only_a_second_slicing_draws_orders() -> None:
    model = small(groups2=(1, 1, 1)).train()
    assert orders_of(model) == []
    x = images_for(model)
    assert torch.equal(model(x), model(x))
    assert len(orders_of(small(groups2=(2, 2, 4)))) == 2 + 1 + 1


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ([], "expected 2 permutations, found 0"),
        ([torch.arange(64)] * 3, "expected 2 permutations, found 3"),
        ([torch.arange(64), torch.arange(63)], "a permutation of 64 tokens"),
        ([torch.arange(64), torch.arange(64) // 2], "a permutation of 64 tokens"),
        ([torch.arange(64), torch.arange(64) + 1], "a permutation of 64 tokens"),
    ],
)
def test_orders_that_are_none_are_refused(orders: list[Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small().set_permutations(orders)


# Arguments and images that cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 60}, "a multiple of 8 wide, not 60x60"),
        ({"image_size": (64, 72)}, "square images, a multiple of 8 wide, not 64x72"),
        ({"image_size": 0}, "not 0x0"),
        ({"img_size": 32}, "two names of one number, not 64 and 32"),
        ({"image_size": 40}, "stage 0 has 5x5 tokens, which groups1=8 or groups2=2 does not divide"),
        ({"groups2": (2, 3, 1)}, "stage 1 has 4x4 tokens, which groups1=4 or groups2=3"),
        ({"heads": (2, 4)}, "one for each stage"),
        ({"depth": (4, 2, 0)}, "as positive numbers"),
        (
            dict.fromkeys(("base_dims", "heads", "depth", "recursive_num", "groups1", "groups2"), ()),
            "as positive numbers",
        ),
        ({"depth": (4, 3, 2), "recursive_num": (2, 2, 1)}, "2 must divide 3"),
        ({"base_dims": (8, 9, 8)}, "16 does not divide 36"),
        ({"base_dims": (1, 1, 1), "heads": (1, 1, 1)}, "at least 2 wide"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SReT(**{**SMALL, **options})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        small()(torch.zeros(1, 3, 96, 96))


# Stochastic depth ----------------------------------------------------------------------------------------------------


def test_drop_path_grows_by_the_applications_before() -> None:
    model = small(**UNSLICED, drop_path_rate=0.4)
    stages: Any = model.transformers
    rates = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in dict.fromkeys(stage.blocks[::2])] for stage in stages
    ]
    assert rates == [pytest.approx([0.0, 0.05]), pytest.approx([0.2]), pytest.approx([0.3])]
    x = images_for(model, 8)
    with torch.no_grad():
        assert torch.equal(model(x), small(**UNSLICED)(x))
        assert not torch.equal(model.train()(x), model(x))


# Tracing and int8 ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_traces_bit_exactly_with_a_free_batch_size() -> None:
    model = small()
    gm = fxquant.trace(model)
    assert {n.op for n in gm.graph.nodes} <= {"placeholder", "get_attr", "call_function", "call_method", "output"}
    for batch in (1, 3):
        x = images_for(model, batch)
        torch.testing.assert_close(gm(x), model(x), rtol=0, atol=0)


def test_training_mode_is_not_traced() -> None:
    with pytest.raises(InputError, match=r"call model\.eval\(\) first"):
        fxquant.trace(small().train())


@torch.no_grad()
def test_every_linear_runs_on_int8(tmp_path: Path) -> None:
    model = small(**TWO)
    x = images_for(model, 8)
    gm = fxquant.quantize(model, [x], recipe="minmax")
    report = fxquant.report(gm)
    linears = [r.int8 for r in report if r.product in ("linear", "head")]
    assert linears == [True] * (4 * 4 + 4 * 2 + 1)  # blocks, projections, head
    floats = [(r.product, r.module) for r in report if not r.int8]
    assert [module for product, module in floats if product != "attention"] == ["pools.0.conv"]
    assert len(floats) == 1 + 4  # attention, by default
    assert (gm(x) - model(x)).norm() < 0.1 * model(x).norm()
    assert torch.equal(gm(x), gm(x))
    fxquant.save(gm, tmp_path / "sret.safetensors")
    assert torch.equal(fxquant.load(tmp_path / "sret.safetensors")(x[:3]), gm(x[:3]))


@torch.no_grad()
def test_attention_runs_on_int8_where_asked() -> None:
    model = small(**{name: numbers[:1] for name, numbers in TWO.items()})
    x = images_for(model, 8)
    gm = fxquant.quantize(model, [x], recipe="minmax", attention=True)
    products = [r.product for r in fxquant.report(gm) if r.int8]
    assert products.count("qk") == products.count("pv") == 2
    assert (gm(x) - model(x)).norm() < 0.1 * model(x).norm()


# Checkpoints -----------------------------------------------------------------------------------------------------------


def once(state: Mapping[str, Tensor], kept: tuple[int, ...] = (0, 1, 3, 4, 5, 7)) -> dict[str, Tensor]:
    """Return `state` without the positions of stages that are not `kept`."""
    return {k: t for k, t in state.items() if not k.startswith("transformers") or int(k.split(".")[3]) in kept}


def split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with three layers for query, key and value."""
    out: dict[str, Tensor] = {}
    for name, t in state.items():
        parts = zip("qkv", t.chunk(3), strict=True) if ".attn.qkv." in name else ()
        out |= {name.replace("qkv", f"proj_{c}"): part.clone() for c, part in parts} or {name: t}
    return out


@pytest.mark.parametrize(
    "change", [dict, once, lambda state: once(state, (1, 2, 3, 5, 6, 7)), split, lambda s: split(once(s))]
)
@torch.no_grad()
def test_weights_are_loaded_from_one_position_or_from_all(change: Any) -> None:
    source, target = small(), SReT(**SMALL).eval()
    given = change(source.state_dict())
    kept, x = dict(given), images_for(source)
    target.load_state_dict(given)
    assert given.keys() == kept.keys()
    assert all(given[name] is t for name, t in kept.items())
    assert torch.equal(target(x), source(x))
    whole = nn.ModuleDict({"backbone": SReT(**SMALL)}).eval()
    whole.load_state_dict({f"backbone.{name}": t for name, t in given.items()})
    assert torch.equal(whole["backbone"](x), source(x))
    assert checkpoint_filter_fn(given, target).keys() == source.state_dict().keys()


def test_other_names_shapes_and_values_are_named() -> None:
    model, state = small(), small().state_dict()
    for change, message in [
        ({"blocks.9.norm.weight": torch.ones(1)}, "Unexpected key.*blocks.9.norm.weight"),
        ({"pos_embed": torch.zeros(1, 16, 4, 4)}, "size mismatch for pos_embed"),
        (
            {QKV.format(2): torch.zeros(48, 16)},
            f"{QKV.format(0)} and {QKV.format(2)} are one tensor of this model, but two",
        ),
        ({QKV.format(2): torch.zeros(3, 16)}, "are one tensor of this model, but two"),
        ({QKV.format(0).replace("qkv", "proj_q"): torch.zeros(16, 16)}, "Unexpected key.*proj_q"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            model.load_state_dict({**state, **change})
    for name in ("norm.bias", QKV.format(0)):
        fewer = {key: t for key, t in state.items() if key not in (name, QKV.format(2))}
        with pytest.raises(RuntimeError, match=f"Missing key.*{name}" if name == "norm.bias" else "Missing key.*qkv"):
            model.load_state_dict(fewer)


@torch.no_grad()
def test_the_command_line_reads_the_authors_checkpoints(tmp_path: Path) -> None:
    source, target = small(), SReT(**SMALL).eval()
    torch.save({"model": source.state_dict(), "epoch": 299}, tmp_path / "SReT_T.pth")
    load_checkpoint(target, tmp_path / "SReT_T.pth")
    x = images_for(source)
    assert torch.equal(target(x), source(x))


# timm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sret_t", "sret_lt", "sret_s"])
def test_timm_builds_the_models_by_name(name: str) -> None:
    assert timm.is_model(name)
    assert name in timm.list_models("sret*")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, img_size=64, in_chans=1).eval()
    assert isinstance(model, SReT)
    assert model(torch.zeros(2, 1, 64, 64, device="meta")).shape == (2, 7)
    config: Any = model.pretrained_cfg
    assert config["architecture"] == name
    assert resolve_data_config(model).input_size == (1, 224, 224)
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 224, 224), 0.9, "bicubic")
    assert data["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert data["std"] == timm.data.IMAGENET_DEFAULT_STD


def test_both_names_of_the_image_size_are_understood() -> None:
    tiny: dict[str, Any] = {"base_dims": (2, 2, 2)}
    for name, size, tokens in [
        ("img_size", None, 28),
        ("img_size", 64, 8),
        ("image_size", 64, 8),
        ("image_size", (64, 64), 8),
    ]:
        assert timm.create_model("sret_t", **tiny, **{name: size}).pos_embed.shape == (1, 4, tokens, tokens)
    with pytest.raises(ConfigError, match="two names of one number"):
        timm.create_model("sret_t", image_size=64, img_size=32)


def test_the_classifier_can_be_replaced() -> None:
    model = small().double()
    x = images_for(model).double()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert not any(name.startswith("head") for name in small(num_classes=0).state_dict())
    assert model.no_weight_decay() == {"pos_embed"}


def test_weights_that_nobody_publishes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timm.list_pretrained("sret*") == []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **options, base_dims=(2, 2, 2)))
    with pytest.raises(InputError, match=r"weights of 'sret_t': No pretrained weights exist .* --checkpoint F loads"):
        build_timm_model("sret_t", pretrained=True, img_size=64)
    assert build_timm_model("sret_t", img_size=64, num_classes=3).name == "sret_t"
    with pytest.raises(ConfigError, match="sret_t has no features_only"):
        timm.create_model("sret_t", features_only=True)
