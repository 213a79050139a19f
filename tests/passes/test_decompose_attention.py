"""`decompose_attention` opens fused attention where the config quantises it, and only there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.config.quant_config import QuantConfig
from fxquant.graph.meta import Product, Record, record_of
from fxquant.graph.shapes import propagate_shapes
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.decompose_attention import decompose_attention
from tests.support.check_pass import check_pass, check_unchanged, module_of, render, through

QKV = tuple(torch.randn(2, 3, 5, 4) for _ in range(3))
ON = QuantConfig(attention=True)


def attention(**options: Any) -> nn.Module:
    return module_of(lambda self, q, k, v: F.scaled_dot_product_attention(q, k, v, **options))


def annotated(module: nn.Module, config: QuantConfig = ON) -> fx.GraphModule:
    return through(module, canonicalize, Annotate(config))


def records(gm: fx.GraphModule) -> list[Record]:
    return [record for node in gm.graph.nodes if (record := record_of(node)) is not None]


def test_opens_both_products() -> None:
    gm = annotated(attention())
    propagate_shapes(gm, QKV)
    gm = check_pass(
        decompose_attention,
        gm,
        QKV,
        before="""
            (q, k, v)
            scaled_dot_product_attention = F.scaled_dot_product_attention(q, k, v)
            return scaled_dot_product_attention
        """,
        after="""
            (q, k, v)
            transpose = k.transpose(-2, -1)
            matmul = torch.matmul(q, transpose)
            mul = matmul * 0.5
            softmax = F.softmax(mul, -1)
            matmul_1 = torch.matmul(softmax, v)
            return matmul_1
        """,
        tolerance=1e-6,
    )
    qk, pv = records(gm)
    assert (qk.product, pv.product) == (Product.QK, Product.PV)
    assert [o.role.value for o in (*qk.operands, *pv.operands)] == ["query", "key", "softmax", "value"]
    assert qk.label != pv.label
    assert len({o.name for o in (*qk.operands, *pv.operands)}) == 4


def test_computes_the_scale_where_shapes_are_unknown() -> None:
    check_pass(
        decompose_attention,
        annotated(attention()),
        QKV,
        after="""
            (q, k, v)
            transpose = k.transpose(-2, -1)
            matmul = torch.matmul(q, transpose)
            size = q.size(-1)
            pow = size ** -0.5
            mul = matmul * pow
            softmax = F.softmax(mul, -1)
            matmul_1 = torch.matmul(softmax, v)
            return matmul_1
        """,
        tolerance=1e-6,
    )


def test_keeps_the_scale_and_adds_the_mask() -> None:
    def forward(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=0.25)

    check_pass(
        decompose_attention,
        annotated(module_of(forward, mask=torch.randn(5, 5))),
        QKV,
        after="""
            (q, k, v)
            transpose = k.transpose(-2, -1)
            matmul = torch.matmul(q, transpose)
            mul = matmul * 0.25
            add = mul + mask
            softmax = F.softmax(add, -1)
            matmul_1 = torch.matmul(softmax, v)
            return matmul_1
        """,
        tolerance=1e-6,
    )


def test_new_nodes_know_where_they_come_from() -> None:
    gm = decompose_attention(annotated(attention())).graph_module
    made = [n for n in gm.graph.nodes if n.op in ("call_function", "call_method")]
    assert made
    assert all("test_decompose_attention.py" in n.meta["stack_trace"] for n in made)


def test_leaves_attention_that_the_config_leaves_float() -> None:
    gm = annotated(attention(), QuantConfig(attention=False))
    check_unchanged(decompose_attention, gm, QKV)


def test_leaves_attention_without_a_record() -> None:
    check_unchanged(decompose_attention, through(attention(), canonicalize), QKV)


def check_refused(gm: fx.GraphModule, inputs: Sequence[Any]) -> fx.GraphModule:
    """Check that attention stays fused, and that the record, which now says so, is all that the pass modified."""
    before = records(gm)
    assert decompose_attention(copy.deepcopy(gm)).modified
    refused = check_pass(decompose_attention, gm, inputs, before=render(gm), after=render(gm))
    assert records(refused) != before
    assert all(o.spec is None for record in records(refused) for o in record.operands)
    assert [n for n in refused.graph.nodes if n.target is F.scaled_dot_product_attention]
    return check_unchanged(decompose_attention, refused, inputs)


def _boolean(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, self.mask > 0)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (attention(is_causal=True), "causal"),
        (attention(enable_gqa=True), "grouped-query"),
        (attention(dropout_p=0.1), "dropout"),
        (module_of(_boolean, mask=torch.randn(5, 5)), "give prepare example_inputs"),
    ],
)
def test_says_why_attention_stays_fused(module: nn.Module, reason: str) -> None:
    gm = check_refused(annotated(module), () if reason == "dropout" else QKV)  # which draws anew each time
    assert reason in str(records(gm)[0].reason)


@pytest.mark.parametrize("known", [True, False])
def test_a_boolean_mask_is_never_added(known: bool) -> None:
    gm = annotated(module_of(_boolean, mask=torch.randn(5, 5)))
    if known:
        propagate_shapes(gm, QKV)
    gm = check_refused(gm, QKV)
    assert ("boolean" if known else "unknown") in str(records(gm)[0].reason)


@pytest.mark.parametrize("attend", [lambda q, k, v: torch.matmul(F.softmax(torch.matmul(q, k), -1), v)])
def test_leaves_attention_that_is_open_already(attend: Callable[..., Tensor]) -> None:
    check_unchanged(decompose_attention, annotated(module_of(lambda self, q, k, v: attend(q, k.mT, v))), QKV)
