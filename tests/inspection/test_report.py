"""The report: one record for each matrix product, at every stage, with the reason where it stays float."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, PerHead, PerToken, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from tests.support.check_pass import module_of
from tests.support.models import Shared, images, small_vit
from tests.support.tiers import keep_quick

X = torch.randn(2, 20, 4)
SIGNED = TensorSpec(signed=True, symmetric=True)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def converted(module: nn.Module, config: QuantConfig, target: str = "int8", x: Tensor = X) -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config)
    prepared(x)
    return fxquant.convert(prepared, target)  # type: ignore[arg-type]


def test_counts_multiply_accumulates_of_every_kind_of_product() -> None:
    report = fxquant.report(fxquant.trace(small_vit(), images(2)))
    macs = {r.name: r.macs for r in report}
    assert macs["patch_embed.proj"] == 2 * 32 * 16 * (3 * 8 * 8)
    assert macs["blocks.0.attn.qkv"] == 2 * 17 * 96 * 32
    assert macs["blocks.0.attn"] == 2 * (2 * 2 * 17 * 17 * 16), "scores and context"
    assert macs["head"] == 2 * 10 * 32
    assert len(report) == len(macs) == 1 + 2 * 5 + 1


def test_coverage_is_the_share_of_macs_on_int8() -> None:
    gm = converted(Mlp(), fxquant.recipe("minmax").set_module_name("fc2", None))
    report = fxquant.report(gm)
    assert [(r.name, r.int8, r.macs) for r in report] == [("fc1", True, 960), ("fc2", False, 720)]
    assert report.coverage == 960 / 1680
    assert fxquant.report(converted(Mlp(), fxquant.recipe("minmax"))).coverage == 1


def test_attention_counts_for_the_coverage_whether_open_or_fused() -> None:
    config = fxquant.recipe("minmax")
    fused = fxquant.report(converted(small_vit(depth=1), config, x=images()))
    opened = fxquant.report(converted(small_vit(depth=1), fxquant.recipe("minmax", attention=True), x=images()))
    assert sum(r.macs or 0 for r in fused) == sum(r.macs or 0 for r in opened)
    assert fused.coverage < opened.coverage == 1


@pytest.mark.parametrize("target", ["fake", "int8"])
def test_operands_name_their_codes_shapes_and_scales(target: str) -> None:
    config = QuantConfig(LayerSpec(TensorSpec(4, signed=True, symmetric=True), TensorSpec(6)))
    gm = converted(Mlp(), config, target)
    (record, _) = fxquant.report(gm)
    x, weight = record.operands
    assert (x.name, x.dtype, x.shape) == ("input", "uint6", (2, 20, 4))
    assert (weight.name, weight.dtype) == ("weight", "int4")
    assert x.scale == pytest.approx(float(X.max() - X.min()) / 63, rel=1e-5)
    assert "PerTensor" in str(x.granularity)
    assert record.output_shape == (2, 20, 6)
    assert record.product == "linear"


@pytest.mark.parametrize("attention", keep_quick([False, True], True))
def test_operands_are_the_same_before_and_after_lowering(attention: bool) -> None:
    heads = TensorSpec(granularity=PerHead())
    layer = LayerSpec(query=heads, softmax=TwinSoftmax(6), value=TensorSpec(5), gelu=TwinGELU(7))
    prepared = fxquant.prepare(small_vit(depth=1), QuantConfig(layer, attention=attention))
    prepared(images())
    fake, lowered = fxquant.report(fxquant.convert(prepared, "fake")), fxquant.report(fxquant.convert(prepared))
    assert [r.macs for r in lowered] == [r.macs for r in fake]
    for before, after in zip(fake, lowered, strict=True):
        assert (after.name, after.product) == (before.name, before.product)
        for one, other in zip(before.operands, after.operands, strict=True):
            assert (one.name, one.dtype, one.granularity) == (other.name, other.dtype, other.granularity)
            assert other.scale == (one.scale and pytest.approx(one.scale, rel=1e-5))


def test_twin_operands_show_the_larger_scale() -> None:
    layer = LayerSpec(query=SIGNED, key=SIGNED, softmax=TwinSoftmax(6), gelu=TwinGELU(7))
    report = fxquant.report(converted(small_vit(depth=1), QuantConfig(layer, attention=True), x=images()))
    records = {r.name: r for r in report}
    probs = records["blocks.0.attn.pv"].operands[0]
    assert (probs.name, probs.dtype, probs.shape) == ("probs", "twin6", (4, 2, 17, 17))
    assert probs.scale == pytest.approx(1 / 31)
    assert records["blocks.0.mlp.fc2"].operands[0].dtype == "twin7"
    assert records["blocks.0.attn.qk"].operands[1].dtype == "int8"
    assert "probs twin6 0.0323" in str(report)
    assert report.coverage == 1


def test_published_twin_probabilities_are_reported_as_simulated() -> None:
    config = QuantConfig(LayerSpec(softmax=TwinSoftmax(published=True)), attention=True)
    for target, reason in (
        ("fake", None),
        ("int8", "simulated: the left operand is twin-uniform as published, which has no int8 form"),
    ):
        report = fxquant.report(converted(small_vit(depth=1), config, target, images()))
        record = next(r for r in report if r.name == "blocks.0.attn.pv")
        assert (record.int8, record.requested, record.reason) == (False, True, reason)
        assert [o.dtype for o in record.operands] == ["twin8", "uint8"]


def test_weight_scales_are_the_same_before_and_after_lowering() -> None:
    torch.manual_seed(0)
    module, config = Mlp(), fxquant.recipe("minmax")
    fake, lowered = (fxquant.report(converted(module, config, target)) for target in ("fake", "int8"))
    for before, after in zip(fake, lowered, strict=True):
        assert after.operands[1].scale == pytest.approx(before.operands[1].scale, rel=1e-5)


def test_each_stage_says_what_it_knows() -> None:
    traced = fxquant.trace(Mlp().eval())
    prepared = fxquant.prepare(traced, fxquant.recipe("minmax"))
    prepared(X)
    reports = [
        fxquant.report(gm) for gm in (traced, prepared, fxquant.convert(prepared, "fake"), fxquant.convert(prepared))
    ]
    assert [r.stage for r in reports] == ["float", "prepared", "quantised", "lowered"]
    assert [r.records[0].reason for r in reports] == ["not prepared yet", None, None, None]
    assert [r.coverage for r in reports] == [0, 0, 0, 1]
    assert reports[0].records[0].macs is None
    assert fxquant.report(fx.symbolic_trace(nn.ReLU())).stage == "unknown"


def _reason(module: nn.Module, config: QuantConfig, target: str = "int8", x: Tensor = X) -> tuple[bool, str | None]:
    (record,) = fxquant.report(converted(module, config, target, x))
    return record.requested, record.reason


def test_reasons_tell_the_config_from_the_graph() -> None:
    config = fxquant.recipe("minmax")
    linear, grouped = nn.Linear(4, 4), nn.Conv2d(4, 4, 2, groups=2)
    assert _reason(linear, config.set_global(None)) == (False, "left float by the config (the global spec)")
    assert _reason(linear, fxquant.recipe("minmax", head=False)) == (False, "the head is switched off in the config")
    requested, reason = _reason(grouped, config, x=torch.randn(1, 4, 4, 4))
    assert requested
    assert "grouped convolution" in str(reason)
    assert _reason(linear, QuantConfig(LayerSpec(activation=None))) == (
        True,
        "the weight alone is quantised, and multiplies floats",
    )


def test_a_module_called_twice_is_reported_twice() -> None:
    gm = converted(Shared(), fxquant.recipe("minmax"), x=torch.randn(2, 20, 8))
    assert [(r.name, r.module, r.int8) for r in fxquant.report(gm)] == [
        ("layer", "layer", True),
        ("layer_2", "layer", True),
    ]


def test_prints_as_a_table() -> None:
    gm = converted(Mlp(), fxquant.recipe("minmax").set_module_name("fc2", None))
    head, names, first, second, unverified = str(fxquant.report(gm)).splitlines()
    assert unverified == "not verified: the graph was not compared with its model; give fxquant.trace an example input"
    assert head == "stage lowered: 1 of 2 products on int8, 57.1% of multiply-accumulates; the rest is float32"
    assert names.split() == ["product", "operands", "output", "MACs", "runs", "on"]
    assert first.startswith("fc1")
    (kernel,) = [r.kernel for r in fxquant.report(gm) if r.int8]
    assert first.endswith(f"int8: {kernel}")
    assert "float: left float by the config" in second


def test_an_empty_graph_has_no_coverage() -> None:
    report = fxquant.report(fxquant.trace(nn.ReLU().eval()))
    assert (len(report), report.coverage) == (0, 0.0)
    assert "0 of 0 products" in str(report)


def test_says_on_how_many_tokens_scales_were_searched() -> None:
    model, x = small_vit(depth=1), images(8)
    searched = fxquant.quantize(model, [x], recipe="noisyquant", max_rows=50, mean=False, range=False)
    found = {r.name: r.searched_tokens for r in fxquant.report(searched)}
    assert found["blocks.0.attn.qkv"] == (50, 8 * 17)
    assert found["head"] == (8, 8)
    assert found["blocks.0.attn.attention"] is None
    assert "part of the tokens: 5 products, the least 50 of 136" in str(fxquant.report(searched))
    whole = fxquant.quantize(model, [x], recipe="noisyquant", mean=False, range=False)
    assert "tokens" not in str(fxquant.report(whole))


class Hiding(nn.Module):
    """A grouped convolution of three axes, which has no int8 form, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv3d(4, 4, 2, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.conv(x).mean((2, 3, 4)))
        return y


def test_products_that_are_not_opened_are_rows(tmp_path: Path) -> None:
    model, x = Hiding().eval(), torch.randn(2, 4, 3, 3, 3)
    gm = fxquant.quantize(model, [x], recipe="minmax")
    hidden, linear = fxquant.report(gm)
    assert (hidden.name, hidden.product, hidden.int8, hidden.macs) == ("conv", "opaque", False, 2 * 4 * 8 * 2 * 8)
    assert hidden.reason == "opaque: 1024 multiply-accumulates in conv3d, which has no int8 form here"
    assert linear.int8
    assert fxquant.report(gm).coverage == 24 / (1024 + 24)
    fxquant.save(gm, tmp_path / "m.safetensors")
    assert fxquant.report(fxquant.load(tmp_path / "m.safetensors")).records[0] == hidden
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), x)
    prepared(x)
    with pytest.raises(fxquant.UnsupportedGraphError, match="conv: opaque: 1024 multiply-accumulates"):
        fxquant.convert(prepared, strict=True)


def test_operators_of_other_libraries_are_rows() -> None:
    @torch.library.custom_op("fxquant_tests::act", mutates_args=())
    def act(x: Tensor) -> Tensor:
        return x.relu()

    act.register_fake(torch.empty_like)
    gm = fxquant.trace(module_of(lambda self, x: act(x) * 2), torch.randn(2, 4))
    (row,) = fxquant.report(gm)
    assert (row.product, row.macs) == ("opaque", None)
    assert "unknown multiply-accumulates in act" in str(row.reason)


def test_a_model_may_call_its_parts_as_a_compiled_graph_does() -> None:
    model = nn.ModuleDict({"graph_module": nn.Linear(4, 4), "backend": nn.Linear(4, 4)})
    module = module_of(lambda self, x: self.parts["backend"](self.parts["graph_module"](x)))
    module.add_module("parts", model.eval())
    assert [r.name for r in fxquant.report(fxquant.trace(module))] == ["parts.graph_module", "parts.backend"]


@pytest.mark.parametrize("target", ["fake", "int8"])
def test_an_operand_with_a_scale_per_token_shows_that_in_place_of_a_scale(target: str) -> None:
    gm = converted(Mlp(), QuantConfig(LayerSpec(activation=TensorSpec(granularity=PerToken()))), target)
    (record, _) = fxquant.report(gm)
    x, weight = record.operands
    assert (x.name, x.dtype, x.granularity, x.scale) == ("input", "uint8", "PerToken()", None)
    assert weight.scale is not None
    assert 0 < weight.scale < 0.01
    assert "input uint8 per token, weight int8 0." in str(fxquant.report(gm))
