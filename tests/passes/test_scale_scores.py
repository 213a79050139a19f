"""`scale_scores` moves a number from the queries to the scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.config.quant_config import QuantConfig
from fxquant.graph.meta import Product, record_of
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.scale_scores import scale_scores
from tests.support.check_pass import check_pass, check_unchanged, module_of, through

QKV = tuple(torch.randn(2, 3, 5, 4) for _ in range(3))


def annotated(function: Any, attention: bool = True) -> fx.GraphModule:
    return through(module_of(function), canonicalize, Annotate(QuantConfig(attention=attention)))


def attend(self: Any, q: Any, k: Any, v: Any) -> Any:
    return F.softmax((q * 0.5) @ k.transpose(-2, -1), -1) @ v


def test_multiplies_scores_in_place_of_queries() -> None:
    gm = check_pass(
        scale_scores,
        annotated(attend),
        QKV,
        before="""
            (q, k, v)
            mul = q * 0.5
            transpose = k.transpose(-2, -1)
            matmul = torch.matmul(mul, transpose)
            softmax = F.softmax(matmul, -1)
            matmul_1 = torch.matmul(softmax, v)
            return matmul_1
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
    records = [r.product for n in gm.graph.nodes if (r := record_of(n)) is not None]
    assert records == [Product.QK, Product.PV]


def test_what_stays_float_stays() -> None:
    check_unchanged(scale_scores, annotated(attend, attention=False), QKV)


def test_other_products_and_computed_scales_stay() -> None:
    def product(self: Any, q: Any, k: Any, v: Any) -> Any:
        return ((q * 0.5) @ k.transpose(-2, -1)) @ v  # no scores

    check_unchanged(scale_scores, annotated(product), QKV)

    def computed(self: Any, q: Any, k: Any, v: Any) -> Any:
        return F.softmax((q * v) @ k.transpose(-2, -1), -1) @ v

    check_unchanged(scale_scores, annotated(computed), QKV)
