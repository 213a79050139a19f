"""iTPN: the published logits, a second computation from the description, names and sizes, tracing, int8, checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxquant
from fxquant import ConfigError, InputError
from fxquant.data import resolve_data_config
from fxquant.models import ITPN, itpn_base, itpn_large
from fxquant.models.itpn import checkpoint_filter_fn
from fxquant.models.timm_model import build_timm_model, load_checkpoint

RECORDED = Path(__file__).parents[1] / "data" / "itpn_tiny.safetensors"
SMALL: dict[str, Any] = {"img_size": 48, "embed_dim": 32, "mlp_depth": 1, "depth": 2, "num_heads": 2, "num_classes": 5}
PYRAMID = {**SMALL, "img_size": 64, "rpe": False, "num_outs": 5, "fpn_dim": 24}
INDEX, POSITIONS = "relative_position_index", "absolute_pos_embed"
TABLE = "blocks.{}.attn.relative_position_bias_table"


def small(**options: Any) -> ITPN:
    """Return a small model with random values in every parameter."""
    torch.manual_seed(0)
    model = ITPN(**{**SMALL, **options})
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model.eval()


def images_for(model: ITPN, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 16 * model.grid, 16 * model.grid)


# The published network -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> tuple[ITPN, dict[str, Tensor], dict[str, Tensor]]:
    """Return the model, its weights and all that was recorded of it."""
    recorded = load_file(RECORDED)
    with safe_open(RECORDED, "pt") as file:
        model = ITPN(**json.loads(file.metadata()["itpn_kwargs"])).eval()
    state = {key.removeprefix("state/"): t for key, t in recorded.items() if key.startswith("state/")}
    model.load_state_dict(state)
    return model, state, recorded


def test_logits_are_the_published_ones(published: Any) -> None:
    model, _, recorded = published
    with torch.no_grad():
        logits = model(recorded["eval"].float())
    assert (logits - recorded["fp_logits"]).norm() < 1e-5 * recorded["fp_logits"].norm()


def test_names_are_the_published_ones(published: Any) -> None:
    model, state, _ = published
    assert set(model.state_dict()) == {*state, INDEX}
    assert not any(name.startswith("head") for name in small(num_classes=0).state_dict())


@pytest.mark.parametrize(("build", "millions"), [(itpn_base, 78.56), (itpn_large, 288.49)])
def test_parameters_are_as_many_as_published(build: Any, millions: float) -> None:
    with torch.device("meta"):
        model = build()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert model.absolute_pos_embed.shape == (1, 196, model.embed_dim)
    assert [b.attn.relative_position_bias_table.shape[0] for b in model.blocks[-model.depth :]] == [729] * model.depth


# The same again, from the description: float64, loops over cells, heads and offsets ----------------------------------------


class Recomputed:
    """The network from its weights and their names alone."""

    def __init__(self, model: ITPN, heads: int) -> None:
        self.w = {name: t.double() for name, t in model.state_dict().items()}
        self.grid, self.heads = model.grid, heads
        self.count = 1 + max(int(name.split(".")[1]) for name in self.w if name.startswith("blocks."))

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return normed * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        y = torch.einsum("...k,ok->...o", x, self.w[f"{name}.weight"])
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def mlp(self, x: Tensor, block: str) -> Tensor:
        hidden = self.linear(self.norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        return x + self.linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, f"{block}.mlp.fc2")

    def merge(self, x: Tensor, block: str) -> Tensor:
        corners = [x[:, :, dy::2, dx::2] for dx in range(2) for dy in range(2)]
        return self.linear(self.norm(torch.cat(corners, -1), f"{block}.norm"), f"{block}.reduction")

    def split(self, x: Tensor, name: str) -> Tensor:
        b, n, h, _, _ = x.shape
        quarters = self.linear(self.norm(x, f"{name}.norm"), f"{name}.reduction").chunk(4, -1)
        out = x.new_zeros(b, n, 2 * h, 2 * h, quarters[0].shape[-1])
        for i, quarter in enumerate(quarters):
            out[:, :, i // 2 :: 2, i % 2 :: 2] = quarter
        return out

    def attention(self, x: Tensor, block: str) -> Tensor:
        width = x.shape[-1] // self.heads
        q, k, v = self.linear(self.norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        table = self.w.get(f"{block}.attn.relative_position_bias_table")
        contexts = []
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.einsum("bid,bjd->bij", q[..., part], k[..., part]) / math.sqrt(width)
            if table is not None:
                scores = scores + self.bias(table[:, head])
            weights = scores.exp()
            contexts.append(weights @ v[..., part] / weights.sum(-1, keepdim=True))
        return x + self.linear(torch.cat(contexts, -1), f"{block}.attn.proj")

    def bias(self, column: Tensor) -> Tensor:
        places, span = [divmod(i, self.grid) for i in range(self.grid**2)], 2 * self.grid - 1
        rows = [[(yi - yj + self.grid - 1) * span + xi - xj + self.grid - 1 for yj, xj in places] for yi, xi in places]
        return torch.stack([torch.stack([column[r] for r in row]) for row in rows])

    def tokens(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        g, finer = self.grid, []
        pixels = images.double().reshape(
            len(images), 3, g, 4, 4, g, 4, 4
        )  # image, colour, then patch, cell, pixel twice
        x = torch.einsum("nkpcyqdx,okyx->npqcdo", pixels, self.w["patch_embed.proj.weight"])
        x = (x + self.w["patch_embed.proj.bias"]).reshape(len(images), g * g, 4, 4, -1)
        x = self.norm(x, "patch_embed.norm")
        for i in range(self.count):
            block = f"blocks.{i}"
            if f"{block}.reduction.weight" in self.w:
                finer.append(x)
                x = self.merge(x, block)
                if len(finer) == 2:
                    x = x[:, :, 0, 0] + self.w[POSITIONS]
            else:
                x = self.mlp(self.attention(x, block) if f"{block}.attn.qkv.weight" in self.w else x, block)
        return x, finer

    def logits(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(self.tokens(images)[0].mean(1), "fc_norm"), "head")

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the strides 16, 8 and 4."""
        x, finer = self.tokens(images)
        x = x[:, :, None, None]
        levels = [self.linear(x, "align_dim_16tofpn")]
        for step, cells in (("16to8", finer[1]), ("8to4", finer[0])):
            x = self.split(x, f"split_{step}") + self.linear(cells, f"align_dim_{step}")
            for i in range(2):
                x = self.mlp(x, f"block_{step}.{i}")
            levels.append(x)
        return [self.laid_out(self.mlp(level, f"fpn_modules.{i}")) for i, level in enumerate(levels)]

    def laid_out(self, cells: Tensor) -> Tensor:
        b, _, h, _, c = cells.shape
        out = cells.new_zeros(b, c, self.grid * h, self.grid * h)
        for n in range(self.grid**2):
            top, left = (h * i for i in divmod(n, self.grid))
            out[:, :, top : top + h, left : left + h] = cells[:, n].permute(0, 3, 1, 2)
        return out


@pytest.mark.parametrize("options", [{}, {"rpe": False}, {"mlp_depth": 2, "num_heads": 4, "bridge_mlp_ratio": 2.0}])
@torch.no_grad()
def test_logits_follow_the_description(options: dict[str, Any]) -> None:
    model = small(**options)
    x = images_for(model)
    expected = Recomputed(model, options.get("num_heads", 2)).logits(x)
    torch.testing.assert_close(model.double()(x.double()), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_feature_maps_follow_the_description() -> None:
    model = small(**PYRAMID)
    x = images_for(model)
    coarse, middle, fine = Recomputed(model, 2).maps(x)
    pooled = [coarse.unfold(2, s, s).unfold(3, s, s).mean((4, 5)) for s in (2, 4)]
    found = model.double()(x.double())
    for f, e in zip(found, [fine, middle, coarse, *pooled], strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10)


# The feature pyramid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outs", "strides"), [(2, (8, 16)), (3, (4, 8, 16)), (4, (4, 8, 16, 32)), (5, (4, 8, 16, 32, 64))]
)
@torch.no_grad()
def test_feature_maps_come_finest_first(outs: int, strides: tuple[int, ...]) -> None:
    model = small(**{**PYRAMID, "num_outs": outs, "rpe": outs < 4})
    maps = model(images_for(model))
    assert [m.shape for m in maps] == [(2, 24, 64 // s, 64 // s) for s in strides]
    assert model.num_classes == 0
    assert not any(name.startswith(("fc_norm", "head")) for name in model.state_dict())


def test_a_pyramid_as_wide_as_the_tokens_needs_no_alignment() -> None:
    assert not any("align_dim_16tofpn" in name for name in small(**{**PYRAMID, "fpn_dim": 32}).state_dict())


# Arguments and images that cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 50}, "a multiple of 16 wide, not 50x50"),
        ({"img_size": (48, 64)}, "square images, a multiple of 16 wide, not 48x64"),
        ({"img_size": 0}, "not 0x0"),
        ({"patch_size": 6}, "patch_size is a multiple of 4, not 6"),
        ({"num_heads": 3}, "embed_dim=32, num_heads=3"),
        ({"embed_dim": 30}, "an embed_dim that 4 and num_heads divide"),
        ({"depth": 0}, "a block with attention"),
        ({"num_outs": 0}, "-1 for a classifier or 2 to 5"),
        ({"num_outs": 4}, "num_outs=4 has strides beyond the patch, which iTPN has with rpe=False only"),
        ({"num_outs": 5, "rpe": False}, "num_outs=5 needs 4 patches along a side, img_size gives 3"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ITPN(**{**SMALL, **options})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeError, match="sizes"):
        small()(torch.zeros(1, 3, 96, 96))


# Stochastic depth ----------------------------------------------------------------------------------------------------


def test_drop_path_grows_linearly_and_is_off_in_eval() -> None:
    model = small(drop_path_rate=0.3)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for b in model.blocks if hasattr(b, "drop_path")]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    x = images_for(model, 8)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        assert torch.equal(model(x), small()(x))
        assert not torch.equal(model.train()(x), model(x))


# Tracing and int8 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SMALL, PYRAMID])
@torch.no_grad()
def test_traces_bit_exactly_with_a_free_batch_size(options: dict[str, Any]) -> None:
    model = small(**options)
    gm = fxquant.trace(model)
    assert {n.op for n in gm.graph.nodes} <= {"placeholder", "get_attr", "call_function", "call_method", "output"}
    for batch in (1, 3):
        x = images_for(model, batch)
        torch.testing.assert_close(gm(x), model(x), rtol=0, atol=0)


@torch.no_grad()
def test_every_product_runs_on_int8(published: Any, tmp_path: Path) -> None:
    model, _, recorded = published
    calib, x = recorded["calib"].float(), recorded["eval"].float()
    gm = fxquant.quantize(model, [calib], recipe="minmax", attention=True)
    report = fxquant.report(gm)
    assert report.coverage == 1.0
    assert len(report.records) == 1 + 2 * 2 + 2 + 2 * 6 + 1  # conv, MLPs, merges, attention blocks, head
    assert (gm(x) - model(x)).norm() < 0.1 * model(x).norm()
    fxquant.save(gm, tmp_path / "itpn.safetensors")
    loaded = fxquant.load(tmp_path / "itpn.safetensors")
    assert torch.equal(loaded(x[:3]), gm(x[:3]))


def test_every_linear_of_the_pyramid_runs_on_int8() -> None:
    model = small(**PYRAMID)
    report = fxquant.report(fxquant.quantize(model, [images_for(model)], recipe="minmax"))
    assert report.coverage > 0.95
    assert str(report).count(" float: ") == 2  # attention, by default
    assert "attention=True quantises it" in str(report)


# Checkpoints -----------------------------------------------------------------------------------------------------------


def cubic(old: int, new: int, scale: float) -> Tensor:
    """Return ``(new, old)``: bicubic weights (a = -0.75) of samples at ``(i + 0.5) / scale - 0.5``, clamped at the border."""
    weights, a = torch.zeros(new, old, dtype=torch.float64), -0.75
    for i in range(new):
        at = (i + 0.5) / scale - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - j)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(j, 0), old - 1)] += near if d <= 1 else far
    return weights


def resized(rows: Tensor, old: int, new: int, scale: float) -> Tensor:
    w = cubic(old, new, scale)
    return torch.einsum("yi,xj,ijc->yxc", w, w, rows.double().reshape(old, old, -1)).flatten(0, 1).float()


@pytest.mark.parametrize("size", [32, 80])
def test_weights_of_another_image_size_are_resized(size: int) -> None:
    source, target = small(), ITPN(**{**SMALL, "img_size": size})
    given, grid = source.state_dict(), size // 16
    kept = {name: t.clone() for name, t in given.items()}
    index = target.state_dict()[INDEX].clone()
    target.load_state_dict(given)
    assert given.keys() == kept.keys()
    assert all(torch.equal(given[name], t) for name, t in kept.items())
    found = target.state_dict()
    positions = resized(given[POSITIONS], 3, grid, (grid + 0.1) / 3)
    torch.testing.assert_close(found[POSITIONS][0], positions, rtol=1e-4, atol=1e-5)
    for i in (4, 5):
        table = resized(given[TABLE.format(i)], 5, 2 * grid - 1, (2 * grid - 1) / 5)
        torch.testing.assert_close(found[TABLE.format(i)], table, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[INDEX], index)
    assert all(torch.equal(t, given[name]) for name, t in found.items() if t.shape == given[name].shape)


def test_weights_are_found_below_a_prefix_and_in_half_precision() -> None:
    source, target = small(), ITPN(**{**SMALL, "img_size": 64})
    expected = checkpoint_filter_fn(source.state_dict(), target)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in source.state_dict().items()}
    nn.ModuleDict({"backbone": target}).load_state_dict({f"backbone.{name}": t for name, t in halves.items()})
    for name, t in target.state_dict().items():
        torch.testing.assert_close(t, expected[name], rtol=2e-3, atol=2e-3)


def test_other_names_and_shapes_are_named() -> None:
    model, state = small(), small().state_dict()
    for change, message in [
        ({"blocks.9.norm.weight": torch.ones(1)}, "Unexpected key.*blocks.9.norm.weight"),
        ({POSITIONS: torch.zeros(1, 7, 32)}, f"size mismatch for {POSITIONS}"),
        ({POSITIONS: torch.zeros(1, 4, 16)}, f"size mismatch for {POSITIONS}"),
        ({TABLE.format(4): torch.zeros(7, 2)}, "size mismatch for blocks.4.attn"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            model.load_state_dict({**state, **change})
    del state["fc_norm.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*fc_norm\.bias"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=f"Unexpected key.*{INDEX}"):
        small(rpe=False).load_state_dict(small().state_dict())


@torch.no_grad()
def test_the_command_line_reads_the_authors_checkpoints(tmp_path: Path) -> None:
    source, target = small(), ITPN(**SMALL).eval()
    torch.save({"model": source.state_dict(), "epoch": 37}, tmp_path / "checkpoint-37.pth")
    load_checkpoint(target, tmp_path / "checkpoint-37.pth")
    x = images_for(source)
    assert torch.equal(target(x), source(x))
    other = {name: t for name, t in source.state_dict().items() if name != "head.bias"}
    save_file(other, tmp_path / "headless.safetensors")
    with pytest.raises(InputError, match=r"1 missing \(head.bias\)"):
        load_checkpoint(target, tmp_path / "headless.safetensors")


# timm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["itpn_base", "itpn_large"])
def test_timm_builds_the_models_by_name(name: str) -> None:
    assert timm.is_model(name)
    assert name in timm.list_models("itpn*")
    model = timm.create_model(name, num_classes=7, img_size=32, in_chans=1, depth=1, mlp_depth=1).eval()
    assert isinstance(model, ITPN)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    config: Any = model.pretrained_cfg
    assert config["architecture"] == name
    assert resolve_data_config(model).input_size[0] == 1
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 224, 224), 0.875, "bicubic")
    assert data["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert data["std"] == timm.data.IMAGENET_DEFAULT_STD


def test_the_classifier_can_be_replaced() -> None:
    model = small().double()
    model.reset_classifier(3)
    assert model(images_for(model).double()).shape == (2, 3)
    model.reset_classifier(0)
    assert model(images_for(model).double()).shape == (2, 32)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model.no_weight_decay() == {POSITIONS, TABLE.format(4), TABLE.format(5)}


def test_weights_that_nobody_publishes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timm.list_pretrained("itpn*") == []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **options, depth=1, mlp_depth=1))
    with pytest.raises(
        InputError, match=r"weights of 'itpn_base': No pretrained weights exist .* --checkpoint F loads"
    ):
        build_timm_model("itpn_base", pretrained=True, img_size=32)
    assert build_timm_model("itpn_base", img_size=32, num_classes=3).name == "itpn_base"
    with pytest.raises(ConfigError, match="num_outs=2 to 5 makes it return that many feature maps"):
        timm.create_model("itpn_base", features_only=True)
