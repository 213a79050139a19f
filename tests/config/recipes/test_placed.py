"""FQ-ViT, PTQ-for-iTPN and PSAQ-ViT: the values they quantise, how, and what comes out, as recorded from their own code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, QuantConfig, TensorSpec, ops
from fxquant.config.placement import Placement
from fxquant.models import ITPN
from fxquant.observers import Observer, QParams
from tests.support.tiers import keep_quick

DATA = Path(__file__).parents[2] / "data"
# What a published code calls a value, from the name here.
NAMES = (
    (r"^model\.image$", "input@value"),
    (r"^model\.concat$", "cls_cat@out"),
    (r"^model\.position$", "pos_embed@value"),
    (r"^model\.embedding$", "pos_add@out"),
    (r"^model\.norm$", "norm@cls_out"),
    (r"^head\.global_pool\.pool\.pooled$", "avgpool@out"),
    (r"\.softmax\.probabilities$", "@probs"),
    (r"\.probabilities$", "@probs"),
    (r"\.biased_scores$", "@scores_biased"),
    (r"\.score_bias$", ".relative_position_bias_table@value"),
    (r"\.(scores|context)$", r"@\1"),
    (r"\.residual_2$", "@residual2"),
    (r"\.residual$", "@residual1"),
    (r"\.(patches|norm|linear|merged|gelu|logits)$", "@out"),
    (r"\.weight$", "@weight"),
)


class Recorded:
    """Images, a model and what a published code made of them; `model` names it where a file holds several."""

    def __init__(self, file: str, model: str = "") -> None:
        with safe_open(DATA / f"{file}.safetensors", "pt") as opened:
            self.tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            self.meta = opened.metadata()
        self.start = f"model_{model}/" if model else ""
        self.described = json.loads(self.meta[model]) if model else self.meta

    def of_model(self, key: str) -> Tensor:
        return self.tensors[self.start + key].float()

    def model(self) -> nn.Module:
        if "itpn_kwargs" in self.described:
            model: nn.Module = ITPN(**json.loads(self.described["itpn_kwargs"]))
        else:
            options = self.described["timm_kwargs"]
            options = json.loads(options) if isinstance(options, str) else options
            model = timm.create_model(self.described["timm_model"], **options)
        start = f"{self.start}state/"
        state = {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("index" in key or "mask" in key for key in missing)
        return model.eval()

    def sites(self, run: str, kind: str) -> dict[str, Tensor]:
        """Return the tensors named `kind` of each value."""
        found = [k for k in self.tensors if k.startswith(f"{run}/") and k.endswith(f"/{kind}")]
        return {k.removeprefix(f"{run}/").removesuffix(f"/{kind}"): self.tensors[k] for k in sorted(found)}


def site_of(operand: str) -> str:
    return next(re.sub(pattern, name, operand) for pattern, name in NAMES if re.search(pattern, operand))


def observers_of(prepared: fx.GraphModule) -> dict[str, Observer]:
    return {site_of(m.operand): m for m in prepared.modules() if isinstance(m, Observer)}


def install(observer: Observer, scale: Tensor, zero_point: Tensor | None) -> None:
    axis = observer.axis
    shaped = scale.reshape(-1) if axis is not None else scale.reshape(())
    zero = None if zero_point is None else zero_point.reshape(-1).expand(shaped.numel()).reshape(shaped.shape)
    observer.refine(QParams(shaped, None if zero is None else zero.to(torch.int32), axis))


def check_run(
    recorded: Recorded, run: str, config: QuantConfig, skip: tuple[str, ...] = (), rtol: float = 1e-4
) -> None:
    """Compare the values, their scales and the logits with a recorded run; `skip`: values whose scales may differ."""
    prepared = fxquant.prepare(recorded.model(), config)
    fxquant.calibrate(prepared, recorded.of_model("calib").split(8), progress=False)
    observers, scales, zeros = observers_of(prepared), recorded.sites(run, "scale"), recorded.sites(run, "zero_point")
    assert set(scales) == {name for name, o in observers.items() if not o.spec.dtype.startswith("log")}
    for name, scale in scales.items():
        found = observers[name].calculate_qparams()
        if name not in skip:
            torch.testing.assert_close(found.scale.flatten(), scale.flatten(), rtol=rtol, atol=0)
            if name in zeros and rtol <= 1e-4:
                assert found.zero_point is not None
                assert found.zero_point.flatten()[0] == zeros[name].flatten()[0]
        if name in zeros:
            install(observers[name], scale, zeros[name])
    check_logits(recorded, run, prepared)


def check_logits(recorded: Recorded, run: str, prepared: fx.GraphModule) -> None:
    images, expected = recorded.of_model("eval"), recorded.tensors[f"{run}/logits"]
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    with torch.no_grad():
        assert (fake(images) - expected).norm() <= 1e-3 * expected.norm()
        # codes may differ where a value sits on a rounding boundary
        assert (int8(images) - expected).norm() <= 0.03 * expected.norm()


FQVIT_RUNS = [
    "ema/w8a8",
    "minmax/w4a8",
    "minmax/w8a8",
    "minmax_lis/w8a8",
    "minmax_pts/w8a8",
    "omse/w8a8",
    "percentile/w8a8",
]


def fqvit_config(run: str) -> QuantConfig:
    name, bits = run.split("/")
    observer, *extras = name.split("_")
    options: dict[str, Any] = {"last_batch_only": True} if observer == "omse" else {}
    return fxquant.recipe(
        "fqvit",
        int(bits[1]),
        int(bits[3]),
        observer=observer,
        power_of_two="pts" in extras,
        softmax="log_int" if "lis" in extras else "uniform",
        image="noinput" not in extras,
        **options,
    )


@pytest.mark.parametrize(
    "run",
    keep_quick(
        [*FQVIT_RUNS, "minmax_noinput/w8a8", "omse_pts_lis/w8a8"],
        *("ema/w8a8", "minmax/w4a8", "minmax_noinput/w8a8", "omse_pts_lis/w8a8", "percentile/w8a8"),
    ),
)
def test_fqvit_on_a_vit(run: str) -> None:
    check_run(Recorded("fqvit_vit"), run, fqvit_config(run), rtol=1e-3 if "percentile" in run else 1e-4)


@pytest.mark.parametrize("run", keep_quick(FQVIT_RUNS, "minmax/w4a8", "minmax_lis/w8a8"))
def test_fqvit_on_a_swin(run: str) -> None:
    recorded = Recorded("fqvit_swin")
    # The table of biases is gathered into one constant before it is observed: entries count as often as they are used.
    weighed = run.startswith(("omse", "percentile"))
    skip = tuple(name for name in recorded.sites(run, "scale") if weighed and "bias_table" in name)
    check_run(recorded, run, fqvit_config(run), skip, rtol=1e-3 if "percentile" in run else 1e-4)


ITPN_RUNS = ["ema/w8a8", "minmax/w4a8", "minmax/w8a8", "omse/w8a8", "percentile/w8a8"]


@pytest.mark.parametrize("run", keep_quick(ITPN_RUNS, "minmax/w4a8", "omse/w8a8"))
def test_itpn(run: str) -> None:
    observer = run.partition("/")[0]
    options: dict[str, Any] = {"last_batch_only": True} if observer == "omse" else {}
    config = fxquant.recipe("itpn", int(run[-3]), int(run[-1]), observer=observer, **options)
    check_run(Recorded("itpn_tiny"), run, config, rtol=1e-3 if observer == "percentile" else 1e-4)


@pytest.mark.parametrize(
    ("model", "bits"),
    keep_quick(product(["deit", "swin"], ["w4a8", "w8a8"]), ("deit", "w4a8"), ("swin", "w8a8")),
)
def test_psaq(model: str, bits: str) -> None:
    recorded, run = Recorded("psaq", model), f"quant_{model}/{bits}"
    prepared = fxquant.prepare(recorded.model(), fxquant.recipe("psaq", int(bits[1]), int(bits[3])))
    fxquant.calibrate(prepared, [recorded.of_model("calib")], progress=False)
    observers, lowest, highest = observers_of(prepared), recorded.sites(run, "min"), recorded.sites(run, "max")
    assert set(lowest) == {name for name in observers if not name.endswith("@weight")}
    for name, least in lowest.items():
        minimum, maximum = observers[name].range()
        torch.testing.assert_close(minimum.squeeze(), least.squeeze(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(maximum.squeeze(), highest[name].squeeze(), rtol=1e-5, atol=1e-6)
    check_logits(recorded, run, prepared)


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}


def quantized(recipe: str, target: str = "int8", **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", **VIT).eval()
    batches = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    prepared = fxquant.prepare(model, fxquant.recipe(recipe, **options))
    return fxquant.convert(fxquant.calibrate(prepared, batches, progress=False), target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("softmax", "per_head"),
    keep_quick(
        product(["uniform", "log2", "log_int"], [False, True]), ("uniform", True), ("log2", False), ("log_int", True)
    ),
)
def test_every_kind_of_probabilities_runs(softmax: str, per_head: bool) -> None:
    fake, int8 = (quantized("fqvit", target, softmax=softmax, per_head=per_head) for target in ("fake", "int8"))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert (fake(x) - int8(x)).norm() <= 0.03 * fake(x).norm()
    reasons = {r.reason for r in fxquant.report(int8) if r.product == "pv"}
    assert reasons == {None} if softmax == "uniform" else all("shifts" in str(reason) for reason in reasons)


def test_the_placement_says_which_products_read_floats() -> None:
    report = {r.name: r for r in fxquant.report(quantized("itpn"))}
    assert "the weight alone" in str(report["blocks.0.attn.qkv"].reason)
    assert report["blocks.0.mlp.fc2"].int8
    assert report["blocks.0.attn.proj"].int8
    assert "switched off" in str(report["head"].reason)


def test_four_bit_attention() -> None:
    report = {r.name: r for r in fxquant.report(quantized("fqvit", softmax="uniform", softmax_bits=4))}
    assert [o.dtype for o in report["blocks.0.attn.pv"].operands] == ["uint4", "uint8"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"softmax": "exp"}, "one of 'uniform', 'log2', 'log_int'"),
        ({"observer": "median"}, "one of minmax, ema, omse, percentile"),
        ({"softmax_bits": 9}, "from 2 to"),
        ({"float_dtype": "bfloat16"}, "rounds float32 values"),
        ({"alpha": 0.9}, "does not take these options"),
    ],
)
def test_bad_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        fxquant.recipe("fqvit", **options)


def test_a_placement_is_not_searched() -> None:
    searched = fxquant.recipe("ptq4vit")
    with pytest.raises(ConfigError, match="searches operands"):
        fxquant.QuantConfig(searched.layer, placement=Placement(norm=TensorSpec()))


@pytest.mark.parametrize(
    ("model", "power_of_two"),
    keep_quick(product(["vit", "swin"], [True, False]), ("vit", True), ("vit", False)),
)
def test_layer_norms_on_integers(model: str, power_of_two: bool) -> None:
    recorded = Recorded(f"fqvit_{model}")
    outputs = []
    for integer_norm in (False, True):
        config = fxquant.recipe("fqvit", softmax="uniform", power_of_two=power_of_two, integer_norm=integer_norm)
        prepared = fxquant.prepare(recorded.model(), config)
        fxquant.calibrate(prepared, recorded.of_model("calib").split(8), progress=False)
        gms = [fxquant.convert(prepared, "fake"), fxquant.convert(prepared)]
        outputs += [gm(recorded.of_model("eval")) for gm in gms]
        norms = [[n for n in gm.graph.nodes if n.target is ops.integer_layer_norm] for gm in gms]
        assert [len(n) > 0 for n in norms] == [integer_norm] * 2
    assert all((y - outputs[0]).norm() <= 0.12 * outputs[0].norm() for y in outputs)
    assert (outputs[2] - outputs[3]).norm() <= 0.03 * outputs[2].norm()


def test_an_integer_norm_reads_integers() -> None:
    model = timm.create_model("deit_tiny_patch16_224", **VIT).eval()
    config = fxquant.recipe("fqvit", integer_norm=True)
    config = replace(config, placement=replace(config.placement, residual=None))  # type: ignore[type-var]
    prepared = fxquant.prepare(model, config)
    fxquant.calibrate(prepared, [torch.randn(2, 3, 32, 32)], progress=False)
    with pytest.raises(ConfigError, match=r"blocks\.0\.norm2.*its input is not rounded"):
        fxquant.convert(prepared)


@pytest.mark.parametrize("recipe", ["minmax", "base_ptq", "ptq4vit"])
def test_powers_of_two_combine_with_other_recipes(recipe: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model("deit_tiny_patch16_224", **VIT).eval(), torch.randn(8, 3, 32, 32)
    config = fxquant.recipe(recipe, attention=True)
    assert config.layer is not None
    config = replace(config, layer=replace(config.layer, softmax=fxquant.Log2(4)))
    prepared = fxquant.calibrate(fxquant.prepare(model, config), [x], progress=False)
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    with torch.no_grad():
        expected, simulated, found = model(x), fake(x), int8(x)
    assert 0 < (simulated - expected).norm() < 0.1 * expected.norm()
    assert (found - simulated).norm() < 0.02 * expected.norm()
    assert {o.dtype for r in fxquant.report(int8) if r.product == "pv" for o in r.operands[:1]} == {"log4"}
