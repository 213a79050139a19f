"""`expand_einsum` finds the one matrix product in an einsum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fxquant.passes.expand_einsum import expand_einsum
from tests.support.check_pass import check_pass, check_unchanged, module_of

SIZES = {"b": 2, "h": 3, "n": 4, "m": 5, "d": 6, "k": 7, "o": 8}


def einsum(equation: str) -> nn.Module:
    return module_of(lambda self, x, y: torch.einsum(equation, x, y))


def operands(equation: str) -> list[Tensor]:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    return [torch.randn([SIZES[c] for c in term]) for term in terms]


@pytest.mark.parametrize(
    ("equation", "product"),
    [
        ("bhnd,bhmd->bhnm", "permute = y.permute(0, 1, 3, 2)\nmatmul = torch.matmul(x, permute)\nreturn matmul"),
        ("bhnm, bhmd -> bhnd", "matmul = torch.matmul(x, y)\nreturn matmul"),
        (
            "bnhd,bmhd->bhnm",
            "permute = x.permute(0, 2, 1, 3)\npermute_1 = y.permute(0, 2, 3, 1)\n"
            "matmul = torch.matmul(permute, permute_1)\nreturn matmul",
        ),
        ("bnk,ok->bno", "permute = y.permute(1, 0)\nmatmul = torch.matmul(x, permute)\nreturn matmul"),
        ("ok,bnk->bno", "permute = x.permute(1, 0)\nmatmul = torch.matmul(y, permute)\nreturn matmul"),
        ("nk,ko->on", "matmul = torch.matmul(x, y)\npermute = matmul.permute(1, 0)\nreturn permute"),
    ],
)
def test_spells_one_product_as_matmul(equation: str, product: str) -> None:
    check_pass(
        expand_einsum,
        einsum(equation),
        operands(equation),
        before=f"(x, y)\neinsum = torch.einsum({equation!r}, x, y)\nreturn einsum",
        after=f"(x, y)\n{product}",
        tolerance=1e-6,
    )


@pytest.mark.parametrize(
    "equation",
    [
        "bnk,bok->bk",  # sums over two axes that are not shared
        "bnhd,ohd->bno",  # sums over two axes
        "bn,bn->bn",  # a product of elements
        "bnd,bhmd->bnhm",  # two axes of its own on the right
        "bhnd,bmd->bhnm",  # two axes of its own on the left, next to a batch
        "n,m->nm",  # nothing to sum over
        "...nd,...md->...nm",  # unnamed axes
        "nn,no->no",  # a diagonal
        "nd,md",  # no result given
    ],
)
def test_leaves_other_einsums(equation: str) -> None:
    letters = equation.replace("...", "")
    check_unchanged(expand_einsum, einsum(equation), operands(letters))


def test_leaves_einsums_of_one_or_three_operands() -> None:
    check_unchanged(expand_einsum, module_of(lambda self, x: torch.einsum("nd->dn", x)), (torch.randn(2, 3),))
    triple = module_of(lambda self, x, y: torch.einsum("ab,bc,cd->ad", x, y, x))
    check_unchanged(expand_einsum, triple, (torch.randn(2, 2), torch.randn(2, 2)))
