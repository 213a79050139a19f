"""Published weights of every layout become those of the model, all of them, or are refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import _builder, adapt_input_conv
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fxquant.errors import InputError
from fxquant.models.fit_weights import load_weights
from fxquant.models.timm_model import build_timm_model

VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
FILE = Path("weights.pth")


class Small(nn.Module):
    """A model with a buffer that is kept, one that is not, and one that Swin's checkpoints hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.register_buffer("attn_mask", torch.arange(4.0))


def small() -> tuple[Small, dict[str, Tensor]]:
    """Return a model, and other weights for it."""
    state = {name: tensor + 1 for name, tensor in Small().state_dict().items()}
    return Small(), state


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "model.",
        "net.",
        "module.",
        "backbone.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.net._orig_mod.",
        "vit.model.",
    ],
)
def test_prefixes_of_wrappers_are_removed_in_any_nesting(prefix: str) -> None:
    model, state = small()
    load_weights(model, prefixed(state, prefix), FILE)
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert torch.equal(model.norm.running_var, state["norm.running_var"])  # type: ignore[arg-type]


def test_only_what_is_wrapped_has_a_prefix() -> None:
    model, state = small()
    parts = {
        name: prefixed({name: tensor}, "" if name.startswith("norm") else "backbone.") for name, tensor in state.items()
    }
    load_weights(model, {n: t for part in parts.values() for n, t in part.items()}, FILE)
    assert torch.equal(model.norm.bias, state["norm.bias"])


def test_a_prefix_that_the_model_has_stays() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    load_weights(model, prefixed(state, "module."), FILE)
    assert torch.equal(model.state_dict()["backbone.weight"], state["backbone.weight"])


def test_averaged_weights_are_preferred() -> None:
    model, state = small()
    load_weights(model, {**prefixed(Small().state_dict(), "model."), **prefixed(state, "model_ema.module.")}, FILE)
    assert torch.equal(model.fc.weight, state["fc.weight"])
    source = Small()
    source.load_state_dict(state)
    load_weights(other := Small(), AveragedModel(source).state_dict(), FILE)  # which also counts
    assert torch.equal(other.fc.weight, state["fc.weight"])


def test_buffers_that_the_model_computes_are_its_own() -> None:
    model, state = small()
    del state["attn_mask"]
    load_weights(model, {**state, "scale": torch.zeros(9), "0.relative_position_index": torch.zeros(2)}, FILE)
    assert torch.equal(model.scale, torch.ones(1))  # type: ignore[arg-type]
    assert torch.equal(model.attn_mask, torch.arange(4.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"1 missing \(fc\.bias\)"),
        ({"decoder.weight": torch.ones(1)}, r"1 unexpected \(decoder\.weight\)"),
        ({"fc.bias": torch.ones(4)}, r"1 of another shape \(fc\.bias \(4,\) for \(3,\)\)"),
        (
            {"fc.weight": torch.ones(3, 2, dtype=torch.int8)},
            r"1 of another type \(fc\.weight torch\.int8 for torch\.float32\)",
        ),
        ({"fc.weight": "text"}, r"1 of another shape \(fc\.weight \(\) for \(3, 2\)\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_all_else_is_refused_and_nothing_loaded(change: dict[str, Any], message: str, prefix: str) -> None:
    model, state = small()
    before = model.fc.weight.clone()
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(InputError, match=rf"'weights\.pth' is not of this model: {message}\. Check MODEL"):
        load_weights(model, prefixed(changed, prefix), FILE)
    assert torch.equal(model.fc.weight, before)


def test_two_prefixes_with_the_same_names_are_refused() -> None:
    model, state = small()
    with pytest.raises(InputError, match=r"missing .* unexpected"):
        load_weights(model, {**prefixed(state, "model."), **prefixed(state, "module.")}, FILE)


def test_a_filter_that_fails_is_told() -> None:
    def fail(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return {"fc.weight": state["patch_embed.weight"]}

    model, state = small()
    with pytest.raises(InputError, match=r"timm cannot convert its names \(KeyError: 'patch_embed.weight'\)"):
        load_weights(model, state, FILE, fail)


def test_filters_may_take_the_state_alone_or_the_model_too() -> None:
    def alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("old_"): tensor for name, tensor in state.items()}

    def both(state: dict[str, Tensor], model: nn.Module, extra: int = 0) -> dict[str, Tensor]:
        assert isinstance(model, Small)
        return alone(state)

    for filter_fn in (alone, both):
        model, state = small()
        load_weights(model, prefixed(state, "module.old_"), FILE, filter_fn)
        assert torch.equal(model.fc.weight, state["fc.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "vit.encoder.layer.0.output.dense.weight",
        "encoder.layer.0.norm1.weight",
        "segformer.encoder.patch_embeddings.0.proj.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ],
)
def test_names_of_transformers_are_recognised(name: str) -> None:
    with pytest.raises(InputError, match="those of Hugging Face transformers: load it there with from_pretrained"):
        load_weights(Small(), {name: torch.ones(1)}, FILE)


# timm ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _narrow_models_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm build its architectures with one block or two, so that they are quick."""
    create = timm.create_model
    swin = {"embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    vit = {"embed_dim": 24, "depth": 1, "num_heads": 1}
    monkeypatch.setattr(timm, "create_model", lambda name, **o: create(name, **o, **(swin if name == SWIN else vit)))


def save(folder: Path, state: Any) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def logits(model: nn.Module, size: int, channels: int = 3) -> Tensor:
    images = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: Tensor = model.eval()(images)
    return out


def test_positions_are_resampled_to_another_size_and_said_so(tmp_path: Path) -> None:
    source = timm.create_model(VIT, img_size=64, num_classes=5)
    file = save(tmp_path, {"state_dict": prefixed(source.state_dict(), "module.")})
    built = build_timm_model(VIT, checkpoint=file, num_classes=5, img_size=96)
    assert built.weights == f"checkpoint {file}; resized: pos_embed (1, 17, 24) to (1, 37, 24)"
    wanted = timm.create_model(VIT, img_size=64, num_classes=5)
    wanted.load_state_dict(source.state_dict())
    wanted.set_input_size((96, 96))
    assert torch.allclose(logits(built.model, 96), logits(wanted, 96), atol=1e-5)
    same = build_timm_model(VIT, checkpoint=file, num_classes=5, img_size=64)
    assert same.weights == f"checkpoint {file}"


def test_swin_as_microsoft_publishes_it(tmp_path: Path) -> None:
    source = timm.create_model(SWIN, num_classes=5)
    state = {
        re.sub(r"layers\.(\d)\.downsample", lambda g: f"layers.{int(g[1]) - 1}.downsample", name).replace(
            "head.fc", "head"
        ): t
        for name, t in source.state_dict().items()
    }
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    built = build_timm_model(SWIN, checkpoint=save(tmp_path, {"model": state}), num_classes=5)
    assert torch.equal(logits(built.model, 224), logits(source, 224))


def test_dinov2_with_its_mask_token(tmp_path: Path) -> None:
    source = timm.create_model("vit_small_patch14_dinov2", img_size=56)
    state = {**source.state_dict(), "mask_token": torch.zeros(1, 24)}
    built = build_timm_model("vit_small_patch14_dinov2", checkpoint=save(tmp_path, state), img_size=56)
    assert torch.equal(logits(built.model, 56), logits(source, 56))


def test_deit3_has_a_filter_of_its_own(tmp_path: Path) -> None:
    source = timm.create_model("deit3_small_patch16_224", num_classes=5, img_size=32)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t
        for name, t in source.state_dict().items()
    }
    file = save(tmp_path, {"model": state})
    built = build_timm_model("deit3_small_patch16_224", checkpoint=file, num_classes=5, img_size=32)
    assert torch.equal(logits(built.model, 32), logits(source, 32))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_first_layer_of_three_channels_is_adapted_as_timm_does(tmp_path: Path, channels: int) -> None:
    source = timm.create_model(VIT, img_size=32, num_classes=5)
    file = save(tmp_path, source.state_dict())
    built = build_timm_model(VIT, checkpoint=file, num_classes=5, img_size=32, in_chans=channels)
    wanted = adapt_input_conv(channels, source.state_dict()["patch_embed.proj.weight"])
    assert torch.equal(built.model.state_dict()["patch_embed.proj.weight"], wanted)
    assert f"resized: patch_embed.proj.weight (24, 3, 16, 16) to (24, {channels}, 16, 16)" in built.weights
    own = build_timm_model(
        VIT, checkpoint=save(tmp_path, built.model.state_dict()), num_classes=5, img_size=32, in_chans=channels
    )
    assert torch.equal(logits(own.model, 32, channels), logits(built.model, 32, channels))
    with pytest.raises(InputError, match=r"patch_embed\.proj\.weight .*--in-chans"):
        build_timm_model(VIT, checkpoint=file, num_classes=5, img_size=32)


def test_timms_loader_is_put_back(tmp_path: Path) -> None:
    own = _builder.load_pretrained
    with pytest.raises(InputError, match="is not of this model"):
        build_timm_model(VIT, checkpoint=save(tmp_path, {"a": torch.ones(1)}))
    assert _builder.load_pretrained is own
