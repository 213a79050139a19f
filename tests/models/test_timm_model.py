"""Models by name: what is loaded, and how wrong names and wrong weights are explained."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from fxquant.errors import InputError
from fxquant.models.timm_model import build_timm_model
from tests.support.folders import MODEL, TAG


def test_name_gets_its_default_tag_and_the_model_its_weights(model: nn.Module, checkpoint: Path) -> None:
    built = build_timm_model(MODEL, checkpoint=checkpoint, num_classes=3, img_size=32)
    assert built.name == f"{MODEL}.{TAG}"
    assert built.num_classes == 3
    assert built.weights == f"checkpoint {checkpoint}"
    assert not built.model.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(built.model(images), model(images))


def test_tag_decides_the_data_config() -> None:
    assert build_timm_model("vit_tiny_patch16_224.augreg_in21k").pretrained_cfg["num_classes"] == 21843


def test_a_model_without_img_size_is_built_without_it() -> None:
    built = build_timm_model("pvt_v2_b0", img_size=64, num_classes=3)
    assert built.model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema"])
def test_training_checkpoints_are_unwrapped(key: str, model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "train.pth.tar"
    torch.save({key: model.state_dict(), "epoch": 3, "args": Namespace(lr=1)}, file)
    built = build_timm_model(MODEL, checkpoint=file, num_classes=3, img_size=32)
    assert torch.equal(built.model.state_dict()["head.weight"], model.state_dict()["head.weight"])


def test_unknown_names_get_close_ones() -> None:
    with pytest.raises(InputError, match="timm has no model 'vit_tinny_patch16_224'; close: vit_tiny_patch16_224"):
        build_timm_model("vit_tinny_patch16_224.augreg")
    with pytest.raises(InputError, match=r"has no tag 'foo'; it has augreg_in21k, augreg_in21k_ft_in1k"):
        build_timm_model("vit_tiny_patch16_224.foo")


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_checkpoint_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read the checkpoint {str(file)!r}: "):
        build_timm_model(MODEL, checkpoint=file)


def test_what_is_no_state_dict_of_the_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "module.pth"
    torch.save(nn.Linear(1, 1), file)
    with pytest.raises(InputError, match="is not of this model"):
        build_timm_model(MODEL, checkpoint=file)
    torch.save([1, 2], file)
    with pytest.raises(InputError, match="does not hold a state dict"):
        build_timm_model(MODEL, checkpoint=file)


def test_other_models_weights_are_counted_and_named(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"2 of another shape \(head.weight \(3, 64\) for \(7, 64\), head.bias \(3,\)"):
        build_timm_model(MODEL, checkpoint=checkpoint, num_classes=7, img_size=32)
    with pytest.raises(InputError, match=r"122 missing \(conv1\.weight, .*, \.\.\.\); 32 unexpected \(.*Check MODEL"):
        build_timm_model("resnet18", checkpoint=checkpoint)


def test_pretrained_goes_to_timm_and_a_new_head_is_called_random(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def record(name: str, pretrained: bool, **options: object) -> nn.Module:
        asked.append(pretrained)
        model: nn.Module = create(name, **options)
        return model

    monkeypatch.setattr(timm, "create_model", record)
    assert build_timm_model(MODEL, pretrained=True).weights == f"pretrained, timm/{MODEL}.{TAG}"
    weights = build_timm_model(MODEL, pretrained=True, num_classes=3, img_size=32).weights
    assert weights.endswith("the head of 3 classes is RANDOM, as the pretrained one has 1000")
    assert asked == [True, True]


def test_failed_download_points_to_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("cannot find the requested files in the local cache\nmore")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match=r"cannot get pretrained weights of .*: cannot find .* cache; --checkpoint F"):
        build_timm_model(MODEL, pretrained=True)
