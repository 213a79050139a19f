"""`ReparameterizeNorms` gives all channels of a norm one range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

import fxquant
from fxquant.errors import CalibrationError, ConfigError, UnsupportedGraphError
from fxquant.graph.meta import record_of
from fxquant.numerics.arithmetic import affine_qparams, quantize
from fxquant.observers.base import QParams
from fxquant.passes.reparameterize_norms import shared_range
from tests.support.folding import images, small


def prepared(model: Any, recipe: str = "minmax", **options: Any) -> fx.GraphModule:
    return fxquant.prepare(model, fxquant.recipe(recipe, **({"folds": "reparameterize"} | options)), images())


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


def test_codes_by_one_scale_are_those_by_a_scale_per_channel() -> None:
    x = torch.randn(100, 6) * torch.tensor([1.0, 10, 0.1, 3, 1, 2]) + torch.tensor([0.0, 20, 0, -1, 0.5, 0])
    scale, zero_point = affine_qparams(x.amin(0), x.amax(0), 0, 255)
    ratio, shift = shared_range(QParams(scale, zero_point, -1))
    mean, middle = scale.mean(), zero_point.double().mean().round().int()
    codes = quantize(x, scale, zero_point, 0, 255, -1).int()
    shared = ((x / ratio - shift) / mean).round() + middle
    difference = (codes + 128 - shared).abs() if int(codes.min()) < 0 else (codes - shared).abs()
    assert float(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 0.01


@pytest.mark.parametrize("recipe", ["minmax", "ptq4vit"])
def test_the_model_computes_the_same_and_its_norms_stay_fused(recipe: str) -> None:
    model = small("vit_small_patch14_reg4_dinov2")
    expected = model(images())
    gm = prepared(model, recipe)
    fxquant.calibrate(gm, [images()], progress=False)
    assert close(gm(images()), expected)
    assert close(model(images()), expected), "the model is as it was"
    first = {name: t for name, t in gm.state_dict().items() if "norm" in name and "folded" in name}
    fxquant.calibrate(gm, [images()], progress=False)
    again = {name: t for name, t in gm.state_dict().items() if "norm" in name and "folded" in name}
    assert len(first) == len(again) == 6, "three norms, folded once"
    names = [getattr(n.target, "__name__", "") for n in fxquant.convert(gm).graph.nodes]
    assert names.count("layer_norm_quantize") == 2
    assert names.count("layer_norm") == 1, "the last norm, of which one token is picked"


def test_windows_that_are_moved_in_between() -> None:
    model = small("swin_tiny_patch4_window7_224")
    expected = model(images())
    gm = fxquant.calibrate(prepared(model), [images()], progress=False)
    assert close(gm(images()), expected)
    norms = {str(n.target) for n in gm.graph.nodes if n.op == "get_attr" and "norm" in str(n.target)}
    left = {name.rpartition(".")[0] for name in norms if "_folded" not in name}
    assert left == {"patch_embed.norm", "norm"}, "one is the stream, the other is averaged first"


def test_observers_see_the_folded_values_alone() -> None:
    gm = prepared(small("vit_small_patch16_224"))
    gm(images())  # statistics of the unfolded model
    fxquant.calibrate(gm, [images()], progress=False)
    observer: Any = gm.get_submodule("observers.blocks_0_attn_qkv_input")
    norm = next(n for n in gm.graph.nodes if n.target is F.layer_norm)
    seen: list[Tensor] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n is norm:
                seen.append(result)
            return result

    Watch(gm).run(images())
    assert torch.equal(observer.range()[1], seen[0].max().reshape(1))
    widths = seen[0].flatten(0, 1).amax(0) - seen[0].flatten(0, 1).amin(0)
    assert float(widths.max() / widths.min()) < 1.5, "all channels have one range"


def test_nothing_but_calibrate_folds(tmp_path: Path) -> None:
    gm = prepared(small("vit_small_patch16_224"))
    gm(images())
    with pytest.raises(CalibrationError, match=r"this recipe folds norms"):
        fxquant.convert(gm)
    fxquant.save(gm, tmp_path / "prepared.fxq")
    loaded = fxquant.load(tmp_path / "prepared.fxq")
    assert isinstance(loaded, fx.GraphModule)
    assert any(record_of(n) is not None and record_of(n).fold is not None for n in loaded.graph.nodes)  # type: ignore[union-attr]


def test_what_cannot_be_folded_is_refused() -> None:
    centred = prepared(small("vit_small_patch16_224"), folds="center+reparameterize")
    with pytest.raises(UnsupportedGraphError, match="found none"):
        fxquant.calibrate(centred, [images()], progress=False)
    with pytest.raises(ConfigError, match=r"Folds\.norms"):
        prepared(small("vit_small_patch16_224"), "fqvit")
