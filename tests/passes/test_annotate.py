"""What `Annotate` decides, for models whose attribute names say nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    ConfigError,
    LayerSpec,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerTensor,
    PerToken,
    QuantConfig,
    Role,
    TensorSpec,
)
from fxquant.graph.meta import Record, record_of
from fxquant.passes.annotate import Annotate
from tests.support.check_pass import check_pass, check_unchanged, render
from tests.support.models import small_vit

FOUR = LayerSpec(
    TensorSpec(4, signed=True, symmetric=True, granularity=PerChannel(0)), TensorSpec(4, signed=True, symmetric=True)
)


class Alder(nn.Module):
    """A transformer block of width 8 with two heads, its attention spelt out."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_norm_fc2 = nn.LayerNorm(8)
        self.b = nn.Linear(8, 24)
        self.c = nn.Linear(8, 8)
        self.d = nn.LayerNorm(8)
        self.e = nn.Linear(8, 16)
        self.f = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, 8) to the same shape."""
        q, k, v = self.b(self.qkv_norm_fc2(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        probs = (q @ k.transpose(-2, -1) * 0.5).softmax(dim=-1)
        x = x + self.c((probs @ v).transpose(1, 2).flatten(2))
        mixed: Tensor = self.f(F.gelu(self.e(self.d(x))))
        return x + mixed


class Birch(nn.Module):
    """The block with fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LayerNorm(8)
        self.b = nn.Linear(8, 24)
        self.c = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, 8) to the same shape."""
        q, k, v = self.b(self.a(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: Tensor = self.c(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + mixed


class Forest(nn.Module):
    """Patches, blocks and a head, none of them called so."""

    def __init__(self, *blocks: nn.Module, head: bool = True) -> None:
        super().__init__()
        self.soil = nn.Conv2d(3, 8, 4, 4)
        self.trees = nn.Sequential(*blocks)
        self.leaves = nn.LayerNorm(8)
        self.sky = nn.Linear(8, 5) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 8, 8) to (B, 5)."""
        tokens = self.soil(x).flatten(2).transpose(1, 2)
        out: Tensor = self.sky(self.leaves(self.trees(tokens))[:, 0])
        return out


def annotated(model: nn.Module, config: QuantConfig | None = None) -> fx.GraphModule:
    """Return the annotated graph, which reads as it did before."""
    gm = fxquant.trace(model.eval())
    return check_pass(Annotate(config or QuantConfig(attention=True)), gm, (), after=render(gm))


def records(gm: fx.GraphModule) -> dict[str, Record]:
    """Return the records by label."""
    found = [r for r in map(record_of, gm.graph.nodes) if r is not None]
    assert len({r.label for r in found}) == len(found), "labels are unique"
    return {r.label: r for r in found}


def table(gm: fx.GraphModule) -> list[str]:
    """Return one line for each product: its label, what it is for, and the role of each operand."""
    rows = []
    for record in records(gm).values():
        operands = ", ".join(f"{o.name.removeprefix(record.label)[1:]}={o.role.value}" for o in record.operands)
        rows.append(f"{record.label}: {record.product.value}({operands})")
    return rows


def reasons(model: nn.Module, config: QuantConfig) -> dict[str, str | None]:
    """Return why each product stays float."""
    return {label: record.reason for label, record in records(annotated(model, config)).items()}


def test_roles_come_from_the_data_flow() -> None:
    assert table(annotated(Forest(Alder()))) == [
        "soil: patch_embed(input=activation, weight=weight)",
        "trees.0.b: linear(input=norm, weight=weight)",
        "trees.0.qk: qk(query=query, key=key)",
        "trees.0.pv: pv(probs=softmax, value=value)",
        "trees.0.c: linear(input=activation, weight=weight)",
        "trees.0.e: linear(input=norm, weight=weight)",
        "trees.0.f: linear(input=gelu, weight=weight)",
        "sky: head(input=norm, weight=weight)",
    ]


def test_fused_attention_is_one_product_of_four_operands() -> None:
    assert table(annotated(Forest(Birch())))[2] == (
        "trees.0.attention: attention(query=query, key=key, probs=softmax, value=value)"
    )


def test_a_model_without_a_head_has_none() -> None:
    kinds = [r.product.value for r in records(annotated(Forest(Alder(), head=False))).values()]
    assert kinds == ["patch_embed", "linear", "qk", "pv", "linear", "linear", "linear"]


class Calls(nn.Module):
    """A module that calls `function(self, x)`; keyword arguments become its attributes."""

    def __init__(self, function: Any, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        out: Tensor = self.function(self, x)
        return out


def test_look_alikes_play_other_roles() -> None:
    # Layer norm after GELU is a layer norm; a softmax after a linear makes no scores of it; a product whose second operand
    # comes from softmax is no context.
    inner = Calls(
        lambda m, x: torch.matmul(x, m.down(m.norm(F.gelu(m.up(x)))).softmax(-1).transpose(1, 2)),
        up=nn.Linear(4, 4),
        norm=nn.LayerNorm(4),
        down=nn.Linear(4, 4),
    )
    model = Calls(lambda m, x: m.oak(x), oak=inner)
    assert table(annotated(model)) == [
        "oak.up: linear(input=activation, weight=weight)",
        "oak.down: linear(input=norm, weight=weight)",
        "oak.matmul: matmul(input=activation, other=softmax)",
    ]


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv2d(4, 8, 2, 2), None),
        (nn.Conv2d(4, 8, 3, padding=1, stride=2), None),
        (nn.Conv2d(4, 8, 3, padding=(1, 0), bias=False), None),
        (nn.Conv2d(4, 8, 2, groups=2), "grouped convolution (2 groups): not one matrix product"),
        (nn.Conv2d(4, 4, 3, 1, 1, groups=4), "grouped convolution (4 groups): not one matrix product"),
        (nn.Conv2d(4, 8, 2, dilation=2), "dilated convolution: no int8 form"),
        (nn.Conv2d(4, 8, 3, dilation=(1, 2)), "dilated convolution: no int8 form"),
        (nn.Conv2d(4, 8, 2, padding="same"), "convolution with padding given by name: no int8 form"),
    ],
)
def test_convolutions_that_are_no_product(convolution: nn.Conv2d, reason: str | None) -> None:
    (record,) = records(annotated(Calls(lambda m, x: m.conv(x), conv=convolution))).values()
    assert record.reason == reason
    assert record.requested, "the config asks for it; the graph is in the way"
    assert all((o.spec is None) is (reason is not None) for o in record.operands)


def test_a_convolution_after_a_product_embeds_no_patches() -> None:
    model = Calls(lambda m, x: m.second(F.relu(m.first(x))), first=nn.Conv2d(3, 4, 2), second=nn.Conv2d(4, 4, 2))
    assert [r.product.value for r in records(annotated(model)).values()] == ["patch_embed", "conv"]


def test_a_weight_computed_at_run_time_stays_float() -> None:
    model = Calls(lambda m, x: F.linear(x, m.w * x.mean()), w=nn.Parameter(torch.ones(3, 4)))
    (record,) = records(annotated(model)).values()
    assert record.reason == "the weight is computed at run time"


class Turned(nn.Module):
    """A layer, a complex product and a sum of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.mix = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 8)`` for ``(B, 8)``."""
        pairs = torch.view_as_complex(self.layer(x).unflatten(-1, (4, 2)))
        return torch.view_as_real(F.linear(pairs, self.mix) + pairs).flatten(-2)


@pytest.mark.parametrize("recipe", ["minmax", "fqvit"])
def test_complex_numbers_stay_as_they_are(recipe: str) -> None:
    torch.manual_seed(0)
    model, x = Turned().eval(), torch.randn(16, 8)
    prepared = fxquant.prepare(fxquant.trace(model, x), fxquant.recipe(recipe))
    fxquant.calibrate(prepared, [x], progress=False)
    gm = fxquant.convert(prepared)
    reasons = {record.module: record.reason for n in gm.graph.nodes if (record := record_of(n)) is not None}
    assert reasons[""] == "complex numbers have no codes"
    assert (gm(x) - model(x)).norm() < 0.05 * model(x).norm()


def test_a_product_with_a_parameter_stays_float() -> None:
    model = Calls(lambda m, x: torch.matmul(x, m.w.transpose(0, 1)), w=nn.Parameter(torch.ones(3, 4)))
    (record,) = records(annotated(model)).values()
    assert record.reason == "product with a parameter outside a linear layer"


def test_what_is_no_product_has_no_record() -> None:
    model = Calls(lambda m, x: m.norm(F.avg_pool2d(x, 2)).exp() * m.norm.weight, norm=nn.LayerNorm(4))
    gm = check_unchanged(Annotate(QuantConfig()), fxquant.trace(model.eval()), [torch.randn(1, 2, 8, 8)])
    assert records(gm) == {}


def test_labels_of_a_shared_module_are_unique() -> None:
    model = Calls(lambda m, x: m.fc(m.fc_2(m.fc(m.fc(x)))), fc=nn.Linear(4, 4), fc_2=nn.Linear(4, 4))
    assert list(records(annotated(model))) == ["fc", "fc_2", "fc_2_2", "fc_3"]
    prepared = fxquant.prepare(model)
    fxquant.calibrate(prepared, [torch.randn(2, 4)], progress=False)
    assert [r.name for r in fxquant.report(fxquant.convert(prepared))] == ["fc", "fc_2", "fc_2_2", "fc_3"]


def test_products_of_the_root_take_the_name_of_their_node() -> None:
    model = Calls(lambda m, x: F.linear(x @ x, m.w), w=nn.Parameter(torch.ones(3, 4)))
    gm = annotated(model)
    first, second = (n.name for n in gm.graph.nodes if record_of(n))
    assert list(records(gm)) == [f"{first}.matmul", second]


@pytest.mark.parametrize(
    ("config", "off"),
    [
        (QuantConfig(), {"trees.0.attention": "the fused attention kernel is faster; attention=True quantises it"}),
        (QuantConfig(attention=True), {}),
        (QuantConfig(attention=True, patch_embed=False), {"soil": "patch embedding is switched off in the config"}),
        (QuantConfig(attention=True, head=False), {"sky": "the head is switched off in the config"}),
    ],
)
def test_switches(config: QuantConfig, off: dict[str, str]) -> None:
    gm = annotated(Forest(Birch()), config)
    assert {label: r.reason for label, r in records(gm).items() if r.reason} == off
    assert {label for label, r in records(gm).items() if not r.requested} == set(off)


def quantised(config: QuantConfig) -> dict[str, int]:
    """Return the bits of the first operand of each product of a forest that is quantised."""
    found = records(annotated(Forest(Birch()), config))
    specs = {label: r.operands[0].spec for label, r in found.items()}
    return {label: spec.bits for label, spec in specs.items() if isinstance(spec, TensorSpec)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # A name beats the switch of the head and the patch embedding, as does an expression; an operator does not name them.
        (QuantConfig(head=False).set_module_name("sky", FOUR), {"sky": 4}),
        (QuantConfig(patch_embed=False).set_module_name_regex("so", FOUR), {"soil": 4}),
        (QuantConfig(head=False).set_object_type(nn.Linear, FOUR), {"sky": None, "trees.0.b": 4}),
        # The products of attention come on where they are named, not with everything around them.
        (QuantConfig().set_module_name("trees.0", FOUR), {"trees.0.attention": 4}),
        (QuantConfig().set_module_name("trees", FOUR), {"trees.0.attention": None, "trees.0.b": 4}),
        (QuantConfig().set_module_name_regex("trees", FOUR), {"trees.0.attention": None, "trees.0.b": 4}),
        (QuantConfig().set_module_name_regex(r"trees\..*", FOUR), {"trees.0.attention": 4, "trees.0.b": 4}),
        (QuantConfig().set_module_name_regex(r"t.*", FOUR), {"trees.0.attention": None, "trees.0.b": 4}),
        (QuantConfig().set_object_type("attention", FOUR), {"trees.0.attention": 4, "trees.0.b": 8}),
        (QuantConfig(attention=True).set_module_name("trees.0", None), {"trees.0.attention": None, "trees.0.b": None}),
        (QuantConfig(None).set_module_name("trees.0.c", FOUR), {"soil": None, "trees.0.c": 4, "trees.0.b": None}),
    ],
)
def test_overrides_and_switches(config: QuantConfig, expected: dict[str, int | None]) -> None:
    found = quantised(config)
    assert {label: found.get(label) for label in expected} == expected


def test_what_the_config_leaves_float_says_by_which_entry() -> None:
    config = QuantConfig(head=False).set_module_name("trees.0.b", None).set_module_name_regex(".*c", None)
    config = config.set_object_type("conv2d", None)
    assert reasons(Forest(Birch()), config) == {
        "soil": "left float by the config (object_type 'conv2d')",
        "trees.0.b": "left float by the config (module_name 'trees.0.b')",
        "trees.0.attention": "the fused attention kernel is faster; attention=True quantises it",
        "trees.0.c": "left float by the config (module_name_regex '.*c')",
        "sky": "the head is switched off in the config",
    }
    for nothing in (QuantConfig(None, attention=True), QuantConfig(LayerSpec(None, None))):
        assert set(reasons(Forest(Birch()), nothing).values()) == {"left float by the config (the global spec)"}


def test_each_role_takes_its_own_spec() -> None:
    bits = {"norm": 3, "gelu": 4, "query": 5, "key": 6, "softmax": 7, "value": 2}
    query, key, softmax, value = (
        TensorSpec(bits[name], granularity=PerHead()) for name in ("query", "key", "softmax", "value")
    )
    layer = LayerSpec(norm=TensorSpec(3), gelu=TensorSpec(4), query=query, key=key, softmax=softmax, value=value)
    found = records(annotated(Forest(Alder()), QuantConfig(layer, attention=True)))
    for record in found.values():
        for operand in record.operands:
            assert isinstance(operand.spec, TensorSpec)
            assert operand.spec.bits == bits.get(operand.role.value, 8)
    override = QuantConfig(attention=True).set_module_name("trees.0.f", LayerSpec(gelu=TensorSpec(4)))
    found = records(annotated(Forest(Alder()), override))
    assert found["trees.0.f"].operands[0].spec == TensorSpec(4)
    assert found["trees.0.e"].operands[0].role is Role.NORM
    assert found["trees.0.e"].operands[0].spec == TensorSpec(8)


def test_an_override_that_matches_nothing_is_an_error() -> None:
    model = Forest(Birch()).eval()
    with pytest.raises(ConfigError, match=r"module_name 'trees\.0\.bb' matches no matrix product .* 'trees\.0\.b'"):
        fxquant.prepare(model, QuantConfig().set_module_name("trees.0.bb", None))
    with pytest.raises(ConfigError, match=r"module_name 'leaves' .* stays float in any case"):
        fxquant.prepare(model, QuantConfig().set_module_name("leaves", FOUR))
    fxquant.prepare(model, QuantConfig().set_module_name("leaves", None))
    fxquant.prepare(model, QuantConfig().set_object_type(torch.matmul, FOUR))


class Folded(nn.Module):
    """Attention whose two heads are a part of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, 8) to (2 B, N, 4)."""
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2).flatten(0, 1)
        return F.softmax(heads @ heads.mT, -1) @ heads


def test_heads_that_are_folded_into_the_batch_share_a_scale() -> None:
    heads = TensorSpec(8, signed=True, symmetric=True, granularity=PerHead())
    config = QuantConfig(LayerSpec(query=heads, key=heads, softmax=heads, value=heads), attention=True)
    x = torch.randn(3, 5, 8)
    gm = fxquant.prepare(Folded().eval(), config, example_inputs=(x,))
    records = [r for r in map(record_of, gm.graph.nodes) if r is not None]
    assert [o.spec for r in records for o in r.operands] == [replace(heads, granularity=PerTensor())] * 4


class Waves(nn.Module):
    """A layer whose results are phases."""

    def __init__(self) -> None:
        super().__init__()
        self.oak, self.elm = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.elm(self.oak(x).sin())  # type: ignore[no-any-return]


def test_phases_stay_float_unless_an_override_names_their_layer() -> None:
    def reasons(config: QuantConfig) -> dict[str, str | None]:
        gm = fxquant.prepare(Waves().eval(), config)
        return {r.label: r.reason for r in map(record_of, gm.graph.nodes) if r is not None}

    kept = {"oak": "computes phases of sine and cosine", "elm": None}
    assert reasons(QuantConfig()) == kept
    assert reasons(QuantConfig().set_object_type("linear", FOUR)) == kept
    assert reasons(QuantConfig().set_module_name("oak", FOUR)) == {"oak": None, "elm": None}


@pytest.mark.parametrize("granularity", [PerToken(), OutlierTokens()])
def test_only_inputs_of_linear_layers_have_a_scale_per_token(granularity: Any) -> None:
    tokens, name = LayerSpec(activation=TensorSpec(granularity=granularity)), type(granularity).__name__
    with pytest.raises(
        ConfigError, match=rf"operand 'patch_embed\.proj\.input': {name} is for the inputs of linear layers"
    ):
        fxquant.prepare(small_vit(), QuantConfig(tokens))
    config = QuantConfig(tokens).set_object_type("conv2d", LayerSpec())
    with pytest.raises(
        ConfigError, match=rf"operand 'blocks\.0\.attn\.attention\.query': {name} is for the inputs of linear"
    ):
        fxquant.prepare(small_vit(), replace(config, attention=True))
    gm = fxquant.prepare(small_vit(), config)
    records = [r for r in map(record_of, gm.graph.nodes) if r is not None and r.reason is None]
    per_token = [r.label for r in records if name in str(r.operands[0].spec)]
    assert len(per_token) == len(records) - 1
