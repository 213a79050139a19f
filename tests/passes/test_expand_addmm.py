"""`expand_addmm` takes a product out of the operator that also adds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fxquant.passes.expand_addmm import expand_addmm
from tests.support.check_pass import check_pass, check_unchanged, module_of

MATRICES = (torch.randn(2, 5), torch.randn(2, 3), torch.randn(3, 5))
BATCHES = tuple(torch.stack([m, 2 * m]) for m in MATRICES)


@pytest.mark.parametrize(
    ("call", "inputs", "lines"),
    [
        (lambda self, x, y, z: torch.addmm(x, y, z), MATRICES, "add = matmul + x"),
        (lambda self, x, y, z: x.addmm(y, z, beta=0.5), MATRICES, "mul = x * 0.5\nadd = matmul + mul"),
        (
            lambda self, x, y, z: torch.baddbmm(x, y, z, alpha=2, beta=0.5),
            BATCHES,
            "mul = matmul * 2\nmul_1 = x * 0.5\nadd = mul + mul_1",
        ),
    ],
)
def test_spells_the_product_and_the_sum(call: Any, inputs: tuple[Any, ...], lines: str) -> None:
    result = lines.rpartition("\n")[2].partition(" ")[0]
    after = f"(x, y, z)\nmatmul = torch.matmul(y, z)\n{lines}\nreturn {result}"
    check_pass(expand_addmm, module_of(call), inputs, after=after, tolerance=1e-6)


def test_nothing_is_added_where_beta_is_0() -> None:
    nothing = torch.full((2, 2, 5), float("nan"))
    module = module_of(lambda self, x, y, z: torch.baddbmm(x, y, z, beta=0, alpha=0.5))
    after = "(x, y, z)\nmatmul = torch.matmul(y, z)\nmul = matmul * 0.5\nreturn mul"
    check_pass(expand_addmm, module, (nothing, *BATCHES[1:]), after=after, tolerance=1e-6)


def test_sums_over_the_batch_stay() -> None:
    check_unchanged(expand_addmm, module_of(lambda self, x, y, z: torch.addbmm(x, y, z)), (MATRICES[0], *BATCHES[1:]))
