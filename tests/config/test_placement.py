"""A placement names kinds of values, which are found from the data flow."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    ConfigError,
    IntegerNorm,
    LayerSpec,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerProjection,
    PerToken,
    QuantConfig,
    RowGroups,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.config.operands import Value
from fxquant.config.placement import Placement
from fxquant.graph.meta import module_path
from fxquant.graph.values import find_values
from fxquant.models import ITPN
from fxquant.numerics.granularity import Granularity
from fxquant.observers.log2 import Log2, LogIntSoftmax
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.linearize_matmul import linearize_matmul
from tests.support.check_pass import module_of, through
from tests.support.models import SIZE, small_swin, small_vit

U8, HEADS = TensorSpec(), TensorSpec(granularity=PerHead())
INSIDE = {Value.SCORES, Value.SCORE_BIAS, Value.BIASED_SCORES, Value.PROBABILITIES}


def found_in(model: nn.Module, placement: Placement | None = None) -> list[tuple[fx.Node, Value]]:
    config = QuantConfig(placement=placement or Placement(scores=U8))
    gm = through(model, canonicalize, fold_constants, linearize_matmul, Annotate(config), decompose_attention)
    return list(find_values(gm))


def values_of(model: nn.Module, start: str = "") -> list[str]:
    """Return the kinds of values in the modules whose path starts with `start`, in order."""
    return [value.value for node, value in found_in(model) if (module_path(node) or "").startswith(start)]


def small_itpn() -> nn.Module:
    sizes: dict[str, Any] = {"embed_dim": 32, "mlp_depth": 1, "depth": 1, "num_heads": 2}
    return ITPN(img_size=32, patch_size=8, num_classes=10, **sizes).eval()


def small_davit() -> nn.Module:
    sizes: dict[str, Any] = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 2), "window_size": 4}
    return timm.create_model("davit_tiny", num_classes=10, **sizes).eval()


@pytest.mark.parametrize("value", Value)
def test_refuses_what_is_no_spec(value: Value) -> None:
    twin: Any = TwinGELU() if value is not Value.GELU else TwinSoftmax()
    for wrong in ("minmax", 8, twin, PerHead()):
        with pytest.raises(ConfigError, match=rf"Placement\.{value.value} must be a TensorSpec.* or None, got "):
            Placement(**{value.value: wrong})  # type: ignore[arg-type]
    assert Placement(**{value.value: U8}).spec_for(value) is U8
    assert Placement().spec_for(value) is None


def test_special_specs_are_for_their_value_alone() -> None:
    assert Placement(gelu=TwinGELU(), probabilities=TwinSoftmax()).gelu == TwinGELU()
    assert Placement(probabilities=Log2()).probabilities == Log2()
    with pytest.raises(
        ConfigError, match=r"must be a TensorSpec or .* or AdaLogSoftmax or Log2 or LogIntSoftmax or None"
    ):
        Placement(probabilities=TwinGELU())
    with pytest.raises(
        ConfigError, match=r"Placement\.gelu must be a TensorSpec or TwinGELU or AdaLogGELU or None, got Log2"
    ):
        Placement(gelu=Log2())


@pytest.mark.parametrize("value", Value)
def test_only_what_comes_from_a_norm_is_an_integer_norm(value: Value) -> None:
    placement = {value.value: IntegerNorm()}
    if value is Value.NORM:
        assert Placement(**placement).norm == IntegerNorm()
        return
    with pytest.raises(ConfigError, match=rf"Placement\.{value.value} must be a TensorSpec.* or None, got IntegerNorm"):
        Placement(**placement)


@pytest.mark.parametrize("value", Value)
def test_only_values_inside_attention_have_heads(value: Value) -> None:
    if value in INSIDE - {Value.SCORE_BIAS} | {Value.CONTEXT}:
        assert Placement(**{value.value: HEADS}).spec_for(value) is HEADS
        return
    with pytest.raises(ConfigError, match=rf"Placement\.{value.value}: this value has no heads"):
        Placement(**{value.value: HEADS})


def test_the_integer_softmax_needs_quantised_scores() -> None:
    with pytest.raises(ConfigError, match="LogIntSoftmax reads integers: give scores a spec"):
        Placement(probabilities=LogIntSoftmax(), context=U8)
    for scores in ("scores", "biased_scores"):
        Placement(probabilities=LogIntSoftmax(), **{scores: U8})


@pytest.mark.parametrize("bits", [1, 8, True, 4.0])
def test_logarithmic_codes_have_two_to_seven_bits(bits: Any) -> None:
    for kind in (Log2, LogIntSoftmax):
        with pytest.raises(ConfigError, match=rf"{kind.__name__}\.bits must be an integer from 2 to 7, got {bits}"):
            kind(bits)


@pytest.mark.parametrize("value", Value)
def test_values_inside_attention_open_it(value: Value) -> None:
    assert Placement(**{value.value: U8}).opens_attention is (value in INSIDE)
    assert QuantConfig(placement=Placement(**{value.value: U8})).opens_attention is (value in INSIDE)


def test_the_config_names_what_is_no_placement() -> None:
    with pytest.raises(ConfigError, match=r"QuantConfig\.placement must be a Placement or None, got 'fqvit'"):
        QuantConfig(placement="fqvit")  # type: ignore[arg-type]


MLP = ["norm", "gelu", "linear", "residual"]
VIT_BLOCK = ["norm", "linear", "scores", "probabilities", "context", "linear", "residual", *MLP]
BIASED = ["scores", "score_bias", "biased_scores", "probabilities", "context", "linear", "residual"]
SWIN_BLOCK = ["norm", "linear", *BIASED, *MLP]


def test_values_of_a_vit() -> None:
    stem = ["image", "patches", "concat", "position", "embedding"]
    for model in (small_vit(), timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2).eval()):
        assert values_of(model) == [*stem, *VIT_BLOCK, *VIT_BLOCK, "norm", "logits"]
        assert values_of(model, "blocks.1") == VIT_BLOCK


def test_values_of_a_swin() -> None:
    swin = small_swin()
    values = values_of(swin)
    assert values[:3] == ["image", "patches", "norm"]
    assert values[-3:] == ["norm", "pooled", "logits"]
    for block in ("layers.0.blocks.0", "layers.0.blocks.1"):
        assert values_of(swin, block) == SWIN_BLOCK
    assert values_of(swin, "layers.1.downsample") == ["norm", "merged"]


def test_values_of_an_itpn() -> None:
    assert values_of(small_itpn(), "blocks.0") == MLP
    assert values_of(small_itpn(), "blocks.1") == ["norm", "merged"]
    assert values_of(small_itpn(), "blocks.4") == SWIN_BLOCK
    assert values_of(small_itpn())[-3:] == ["pooled", "norm", "logits"]


def test_values_of_window_attention_in_a_davit() -> None:
    spatial = values_of(small_davit(), "stages.0.blocks.0.0")
    assert [v for v in spatial if v in ("scores", "probabilities", "context", "gelu")] == [
        "scores",
        "probabilities",
        "context",
        "gelu",
    ]
    assert spatial[-1] == "residual"
    assert "score_bias" not in values_of(small_davit())


@pytest.mark.parametrize("make", [small_vit, small_swin, small_itpn, small_davit])
def test_each_value_is_found_once_and_before_what_reads_it(make: Any) -> None:
    found = found_in(make())
    nodes = [node for node, _ in found]
    assert len(set(nodes)) == len(nodes)
    order = {node: i for i, node in enumerate(nodes[0].graph.nodes)}
    computed = [order[n] for n in nodes if n.op != "get_attr"]
    assert computed == sorted(computed)


def test_closed_attention_has_a_context_alone() -> None:
    found = [value.value for _, value in found_in(small_vit(), Placement(linear=U8))]
    assert "scores" not in found
    assert "probabilities" not in found
    assert found.count("context") == 2


def test_a_norm_of_which_one_token_is_read_is_observed_there() -> None:
    def both(self: Any, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (4,))
        return F.linear(y[:, 0], self.w) + y.sum(1)

    def one(self: Any, x: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (4,))[:, 0], self.w)

    targets = {}
    for name, function in (("both", both), ("one", one)):
        (node,) = [n for n, v in found_in(module_of(function, w=torch.ones(4, 4))) if v is Value.NORM]
        targets[name] = re.sub(r"_\d+$", "", node.name)
    assert targets == {"both": "layer_norm", "one": "getitem"}


def test_scores_are_scaled_first_where_nothing_else_reads_them() -> None:
    def scaled(self: Any, x: Tensor) -> Tensor:
        return F.softmax((x @ x.mT) * 0.5, -1) @ x

    def kept(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = x @ x.mT
        return F.softmax(scores * 0.5, -1) @ x, scores

    for function, name in ((scaled, "mul"), (kept, "matmul")):
        (node,) = [n for n, v in found_in(module_of(function)) if v is Value.SCORES]
        assert node.name == name


def test_a_mask_and_a_sum_with_a_number_are_no_values() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        scores = (x @ x.mT) * 0.5 + self.bias
        return F.softmax(scores.view(2, 1, 4, 4) + self.mask, -1).view(2, 4, 4) @ (x + 1.0)

    module = module_of(forward, bias=torch.randn(4, 4), mask=torch.zeros(1, 4, 4))
    kinds = [value.value for _, value in found_in(module)]
    assert kinds == ["image", "scores", "score_bias", "biased_scores", "probabilities", "context"]


def test_public_names() -> None:
    assert {"Placement", "Log2", "LogIntSoftmax", "PowerOfTwoFactor"} <= set(fxquant.__all__)
    assert isinstance(PerChannel(-1), PerChannel)


@pytest.mark.parametrize("value", Value)
@pytest.mark.parametrize("granularity", [PerChannel(0), RowGroups(2), PerProjection()])
def test_granularities_of_weights_are_refused(value: Value, granularity: Granularity) -> None:
    with pytest.raises(ConfigError, match=rf"Placement\.{value.value}: .* is for the rows of a weight"):
        Placement(**{value.value: TensorSpec(granularity=granularity)})


def test_codes_that_lose_every_negative_value_are_refused() -> None:
    unsigned = TensorSpec(symmetric=True)
    assert Placement(probabilities=unsigned).probabilities is unsigned
    with pytest.raises(ConfigError, match=r"Placement\.residual: symmetric unsigned codes lose every negative value"):
        Placement(residual=unsigned)


def test_the_integer_softmax_takes_one_scale_or_one_per_head() -> None:
    with pytest.raises(ConfigError, match="needs one scale, or one per head"):
        Placement(scores=TensorSpec(granularity=PerChannel(-1)), probabilities=LogIntSoftmax())


def test_attention_is_opened_for_the_values_inside() -> None:
    assert QuantConfig(placement=Placement(scores=U8)).opens_attention
    assert not QuantConfig(placement=Placement(context=U8)).opens_attention
    with pytest.raises(ConfigError, match="rounds values inside attention"):
        fxquant.recipe("fqvit", attention=False)


def test_what_a_product_left_float_gives_stays_float() -> None:
    model = small_vit()
    everything = Placement(**{value.value: U8 for value in Value})
    config = QuantConfig(attention=True, patch_embed=False, head=False, placement=everything)
    config = config.set_module_name("blocks.0", None)
    gm = through(model, canonicalize, fold_constants, linearize_matmul, Annotate(config), decompose_attention)
    found = {(module_path(node) or "", value) for node, value in find_values(gm)}
    kinds = {value for _, value in found}
    assert not kinds & {Value.IMAGE, Value.PATCHES, Value.LOGITS}
    inside = {value for path, value in found if path.startswith("blocks.0")}
    assert not inside & {Value.LINEAR, Value.SCORES, Value.PROBABILITIES}
    assert {value for path, value in found if path.startswith("blocks.1")} >= {
        Value.LINEAR,
        Value.SCORES,
        Value.CONTEXT,
    }


def test_a_placement_rounds_what_products_read_whatever_their_spec_says() -> None:
    config = QuantConfig(LayerSpec(activation=None), attention=True, placement=Placement(scores=U8, norm=U8, linear=U8))
    prepared = fxquant.calibrate(fxquant.prepare(small_vit(), config), [torch.randn(2, 3, SIZE, SIZE)], progress=False)
    report = {r.name: r for r in fxquant.report(fxquant.convert(prepared))}
    assert report["blocks.0.attn.qkv"].int8
    assert report["blocks.0.attn.qk"].int8


class Sums(nn.Module):
    """Sums that are no values of a transformer: of sizes, of masks, and of queries that are turned."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, 1, 4, 4))
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 4, 8)``."""
        rows = x.shape[1] + x.shape[2]
        q, k, v = self.qkv(x).reshape(-1, rows - x.shape[2], 3, 1, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.bias + x.new_zeros(1, 1, 4, 4)
        return F.scaled_dot_product_attention(q * 0.5 + q.flip(-1) * 0.5, k, v, mask).flatten(1, 2)


def test_sums_that_are_no_values() -> None:
    kinds = [value for _, value in found_in(Sums().eval(), Placement(residual=U8))]
    assert not set(kinds) & {Value.RESIDUAL, Value.POSITION, Value.EMBEDDING}


@pytest.mark.parametrize("granularity", [PerToken(), OutlierTokens()])
def test_a_value_has_no_scale_per_token(granularity: Any) -> None:
    name = type(granularity).__name__
    with pytest.raises(
        ConfigError, match=rf"Placement\.norm: {name} is for the inputs of linear layers: use a LayerSpec"
    ):
        Placement(norm=TensorSpec(granularity=granularity))
