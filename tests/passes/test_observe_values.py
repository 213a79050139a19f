"""`ObserveValues` puts one observer on each value of a placement, and the records of products say what they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, PerHead, QuantConfig, TensorSpec, TwinGELU
from fxquant.config.operands import Role
from fxquant.config.placement import Placement
from fxquant.graph.meta import Record, record_of
from fxquant.graph.stages import Stage
from fxquant.observers import Observer
from fxquant.observers.log2 import Log2, Log2Observer
from fxquant.observers.operand_spec import OperandSpec
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.insert_observers import insert_observers
from fxquant.passes.observe_values import ObserveValues
from fxquant.passes.record_inputs import RecordInputs
from fxquant.spec import verify
from tests.support.check_pass import check_pass, check_unchanged, module_of, render, through

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
U8, U6 = TensorSpec(), TensorSpec(6)
PLACEMENT = Placement(norm=U8, linear=U6, scores=U8, probabilities=Log2(), residual=U8, logits=U8)


class Block(nn.Module):
    """Attention of two heads with a residual, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj, self.head = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 5, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        probabilities = F.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
        return self.head(x + self.proj((probabilities @ v).transpose(1, 2).reshape(-1, 5, 4)))  # type: ignore[no-any-return]


def annotated(module: nn.Module, placement: Placement = PLACEMENT, config: QuantConfig | None = None) -> fx.GraphModule:
    config = config or QuantConfig(placement=placement)
    return through(module, canonicalize, Annotate(config), decompose_attention)


def observers(gm: fx.GraphModule) -> dict[str, Observer]:
    return {m.operand: m for m in gm.modules() if isinstance(m, Observer)}


def records(gm: fx.GraphModule) -> dict[str, Record]:
    found = [record_of(n) for n in gm.graph.nodes]
    return {r.label: r for r in found if r is not None}


def specs(record: Record) -> list[OperandSpec | None]:
    return [operand.spec for operand in record.operands]


def test_observes_each_value_and_products_read_what_was_observed() -> None:
    gm = check_pass(
        ObserveValues(PLACEMENT),
        annotated(Block()),
        (X,),
        before="""
            (x)
            layer_norm = F.layer_norm(x, (4,), norm.weight, norm.bias)
            linear = F.linear(layer_norm, qkv.weight, qkv.bias)
            reshape = linear.reshape(-1, 5, 3, 2, 2)
            permute = reshape.permute(2, 0, 3, 1, 4)
            unbind = permute.unbind(0)
            getitem = unbind[0]
            getitem_1 = unbind[1]
            getitem_2 = unbind[2]
            transpose = getitem_1.transpose(-2, -1)
            matmul = torch.matmul(getitem, transpose)
            mul = matmul * 0.5
            softmax = F.softmax(mul, -1)
            matmul_1 = torch.matmul(softmax, getitem_2)
            transpose_1 = matmul_1.transpose(1, 2)
            reshape_1 = transpose_1.reshape(-1, 5, 4)
            linear_1 = F.linear(reshape_1, proj.weight, proj.bias)
            add = x + linear_1
            linear_2 = F.linear(add, head.weight, head.bias)
            return linear_2
        """,
        after="""
            (x)
            layer_norm = F.layer_norm(x, (4,), norm.weight, norm.bias)
            norm_norm = observers.norm_norm(layer_norm)
            linear = F.linear(norm_norm, qkv.weight, qkv.bias)
            qkv_linear = observers.qkv_linear(linear)
            reshape = qkv_linear.reshape(-1, 5, 3, 2, 2)
            permute = reshape.permute(2, 0, 3, 1, 4)
            unbind = permute.unbind(0)
            getitem = unbind[0]
            getitem_1 = unbind[1]
            getitem_2 = unbind[2]
            transpose = getitem_1.transpose(-2, -1)
            matmul = torch.matmul(getitem, transpose)
            mul = matmul * 0.5
            model_scores = observers.model_scores(mul)
            softmax = F.softmax(model_scores, -1)
            model_probabilities = observers.model_probabilities(softmax)
            matmul_1 = torch.matmul(model_probabilities, getitem_2)
            transpose_1 = matmul_1.transpose(1, 2)
            reshape_1 = transpose_1.reshape(-1, 5, 4)
            linear_1 = F.linear(reshape_1, proj.weight, proj.bias)
            proj_linear = observers.proj_linear(linear_1)
            add = x + proj_linear
            model_residual = observers.model_residual(add)
            linear_2 = F.linear(model_residual, head.weight, head.bias)
            head_logits = observers.head_logits(linear_2)
            return head_logits
        """,
        stage=Stage.PREPARED,
    )
    assert list(observers(gm)) == [
        "norm.norm",
        "qkv.linear",
        "model.scores",
        "model.probabilities",
        "proj.linear",
        "model.residual",
        "head.logits",
    ]
    assert isinstance(observers(gm)["model.probabilities"], Log2Observer)
    assert observers(gm)["qkv.linear"].spec == U6
    verify(through(gm, insert_observers), Stage.PREPARED)


def test_records_say_how_operands_were_observed() -> None:
    before = records(annotated(Block()))
    after = records(through(annotated(Block()), ObserveValues(PLACEMENT)))
    weight = before["qkv"].operands[1].spec
    assert {label: specs(record) for label, record in after.items()} == {
        "qkv": [U8, weight],
        "matmul.qk": [U6, U6],
        "matmul_1.pv": [Log2(), U6],
        "proj": [None, weight],  # the context is not in the placement
        "head": [U8, weight],
    }
    assert all(record.reason is None for record in after.values())
    for label, record in after.items():
        assert [(o.role, o.name) for o in record.operands] == [(o.role, o.name) for o in before[label].operands]


def test_only_weights_are_observed_behind_it() -> None:
    gm = through(annotated(Block()), ObserveValues(PLACEMENT))
    values = set(observers(gm))
    complete = through(gm, insert_observers)
    assert set(observers(complete)) - values == {"qkv.weight", "proj.weight", "head.weight"}
    assert values < set(observers(complete))


def test_a_value_with_several_readers_is_observed_once() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.layer_norm(x, (4,))
        return F.linear(y, self.q).exp() + F.linear(y, self.k).exp() + y

    check_pass(
        ObserveValues(Placement(norm=U8)),
        annotated(module_of(forward, q=torch.randn(4, 4), k=torch.randn(4, 4)), Placement(norm=U8)),
        (X,),
        after="""
            (x)
            layer_norm = F.layer_norm(x, (4,))
            model_norm = observers.model_norm(layer_norm)
            linear = F.linear(model_norm, q)
            exp = linear.exp()
            linear_1 = F.linear(model_norm, k)
            exp_1 = linear_1.exp()
            add = exp + exp_1
            add_1 = add + model_norm
            return add_1
        """,
        stage=Stage.PREPARED,
    )


def test_constants_are_observed_at_once() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x + self.positions, self.w)

    placement = Placement(image=U8, position=U8, embedding=U8)
    gm = check_pass(
        ObserveValues(placement),
        annotated(module_of(forward, positions=torch.randn(1, 5, 4), w=torch.randn(3, 4)), placement),
        (X,),
        after="""
            (x)
            model_image = observers.model_image(x)
            model_position = observers.model_position(positions)
            add = model_image + model_position
            model_embedding = observers.model_embedding(add)
            linear = F.linear(model_embedding, w)
            return linear
        """,
        stage=Stage.PREPARED,
    )
    found = through(annotated(module_of(forward, positions=X[:1].clone(), w=torch.randn(3, 4)), placement))
    found = through(found, ObserveValues(placement))
    position = observers(found)["model.position"]
    assert (position.calibrated, position.frozen) == (True, True)
    assert [end.item() for end in position.range()] == [X[:1].min().item(), X[:1].max().item()]
    assert not observers(found)["model.embedding"].calibrated
    gm(X)
    assert int(observers(gm)["model.position"].batches) == 1


def test_modules_with_values_of_one_kind_count_them() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x + x.exp()
        return F.linear(x + x.sin(), self.w)

    gm = through(
        annotated(module_of(forward, w=torch.randn(3, 4)), Placement(residual=U8)),
        ObserveValues(Placement(residual=U8)),
    )
    assert list(observers(gm)) == ["model.residual", "model.residual_2"]


def test_what_reads_nothing_observed_keeps_its_floats() -> None:
    after = records(through(annotated(Block(), Placement(residual=U8)), ObserveValues(Placement(residual=U8))))
    assert after["qkv"].operands[0].spec is None
    assert after["qkv"].operands[1].spec is not None, "its weight is quantised"
    assert after["head"].operands[0].spec == U8


def test_a_placement_of_nothing_leaves_products_of_activations_float() -> None:
    config = QuantConfig(attention=True, placement=Placement())
    gm = annotated(Block(), config=config)
    after = records(check_pass(ObserveValues(Placement()), gm, (X,), after=render(gm), stage=Stage.PREPARED))
    for label in ("matmul.qk", "matmul_1.pv"):
        assert "the placement quantises none of its operands" in str(after[label].reason)
    assert after["qkv"].reason is None
    assert [o.role for o in after["qkv"].operands if o.spec] == [Role.WEIGHT]


def test_a_graph_without_products_or_values_stays() -> None:
    gm = annotated(module_of(lambda self, x: x.exp()), Placement(norm=U8))
    check_unchanged(ObserveValues(Placement(norm=U8)), gm, (X,), Stage.PREPARED)


def test_a_graph_that_has_its_observers_stays() -> None:
    gm = through(annotated(Block()), ObserveValues(PLACEMENT), insert_observers)
    check_unchanged(ObserveValues(PLACEMENT), gm, (X,), Stage.PREPARED)


def test_what_was_left_float_stays_so() -> None:
    config = QuantConfig(placement=PLACEMENT).set_module_name("proj", None)
    before = annotated(Block(), config=config)
    after = through(before, ObserveValues(PLACEMENT))
    assert records(after)["proj"] == records(before)["proj"]
    assert records(after)["proj"].reason is not None
    assert "proj.weight" not in observers(through(after, insert_observers))
    assert "proj.linear" not in observers(after)


def test_other_dtypes_are_refused_by_name() -> None:
    for model in (Block().eval().bfloat16(), Block().eval().half()):
        with pytest.raises(ConfigError, match=r"rounds float32 values, and this model is torch.*: use model.float\(\)"):
            fxquant.prepare(model, QuantConfig(placement=PLACEMENT))
    fxquant.prepare(Block().eval().bfloat16().float(), QuantConfig(placement=PLACEMENT))


def test_makes_room_beside_a_part_of_the_model_called_observers() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.observers = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.observers(F.gelu(x))  # type: ignore[no-any-return]

    placement = Placement(gelu=TwinGELU())
    gm = through(
        annotated(Watched(), placement), ObserveValues(placement), insert_observers, RecordInputs(strict=False)
    )
    called = [str(n.target) for n in gm.graph.nodes if n.op == "call_module"]
    assert called == ["observers_.input_x", "observers_.model_gelu", "observers_.observers_weight"]
    gm(X)


def test_heads_have_scales_of_their_own() -> None:
    heads = TensorSpec(granularity=PerHead())
    placement = Placement(scores=heads, context=heads)
    gm = through(annotated(Block(), placement), ObserveValues(placement), insert_observers)
    gm(X)
    assert observers(gm)["model.scores"].calculate_qparams().scale.shape == (2,)
    assert observers(gm)["model.context"].calculate_qparams().scale.shape == (2,)
