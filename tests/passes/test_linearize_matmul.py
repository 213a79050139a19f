"""`linearize_matmul` sees the weight in a product with a constant matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.linearize_matmul import linearize_matmul
from tests.support.check_pass import check_pass, check_unchanged, module_of, through

X = torch.randn(2, 3, 4)


def test_a_product_with_a_matrix_is_a_linear_layer() -> None:
    module = module_of(lambda self, x: x @ self.proj + self.bias, proj=torch.randn(4, 5), bias=torch.randn(5))
    check_pass(
        linearize_matmul,
        through(module, canonicalize, fold_constants),
        (X,),
        before="""
            (x)
            matmul = torch.matmul(x, proj)
            add = matmul + bias
            return add
        """,
        after="""
            (x)
            linear = F.linear(x, proj_transposed)
            add = linear + bias
            return add
        """,
        tolerance=1e-6,
    )


def test_a_transposed_matrix_is_one_tensor_by_then() -> None:
    module = module_of(lambda self, x: x @ self.proj.t(), proj=torch.randn(5, 4))
    check_pass(
        linearize_matmul,
        through(module, canonicalize, fold_constants),
        (X,),
        after="""
            (x)
            linear = F.linear(x, t_transposed)
            return linear
        """,
        tolerance=1e-6,
    )


def _activations(self: Any, x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def _constant_on_the_left(self: Any, x: Tensor) -> Tensor:
    return self.matrix @ x  # type: ignore[no-any-return]


def _stack_of_matrices(self: Any, x: Tensor) -> Tensor:
    return x @ self.stack  # type: ignore[no-any-return]


def _vector(self: Any, x: Tensor) -> Tensor:
    return x @ self.vector  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [_activations, _constant_on_the_left, _stack_of_matrices, _vector])
def test_leaves_other_products(forward: Any) -> None:
    module = module_of(forward, matrix=torch.randn(3, 3), stack=torch.randn(2, 4, 5), vector=torch.randn(4))
    check_unchanged(linearize_matmul, through(module, canonicalize), (X,))
