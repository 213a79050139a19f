"""`fold_constants` computes once what depends on parameters alone, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.graph.attributes import get_tensor
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.fold_constants import fold_constants
from tests.support.check_pass import check_pass, check_unchanged, graph_of, module_of, through

X = torch.randn(2, 4)


def test_folds_a_whole_chain_into_one_buffer() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 2))
            self.register_buffer("index", torch.randint(9, (4, 4)))

        def forward(self, scores: Tensor) -> Tensor:
            bias = self.table[self.index.view(-1)].view(4, 4, -1)  # type: ignore[operator]
            return scores + bias.permute(2, 0, 1).contiguous()

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Biased()

        def forward(self, scores: Tensor) -> Tensor:
            return self.attn(scores)  # type: ignore[no-any-return]

    gm = check_pass(
        fold_constants,
        through(Attention(), canonicalize),
        (torch.randn(3, 2, 4, 4),),
        before="""
            (scores)
            getitem = attn.table[_tensor_constant0]
            reshape = getitem.reshape(4, 4, -1)
            permute = reshape.permute(2, 0, 1)
            contiguous = permute.contiguous()
            add = scores + contiguous
            return add
        """,
        after="""
            (scores)
            add = scores + attn.contiguous
            return add
        """,
    )
    assert get_tensor(gm, "attn.contiguous").is_contiguous()


def test_folds_each_value_that_the_input_meets_but_not_what_only_leads_there() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        left, right = self.weight.exp().chunk(2)
        return x + left, x + right.sum()

    check_pass(
        fold_constants,
        module_of(forward, weight=torch.randn(2, 4)),
        (X,),
        after="""
            (x)
            add = x + getitem
            add_1 = x + sum_1
            return (add, add_1)
        """,
    )


def test_folds_a_product_of_parameters() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.down @ self.up, torch.cat([self.bias, torch.zeros_like(self.bias)]))

    gm = graph_of(module_of(forward, down=torch.randn(4, 2), up=torch.randn(2, 4), bias=torch.randn(2)))
    check_pass(
        fold_constants,
        gm,
        (X,),
        after="""
            (x)
            linear = F.linear(x, matmul, cat)
            return linear
        """,
    )


def test_leaves_what_the_batch_decides() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1), x], dim=1)

    check_unchanged(fold_constants, module_of(forward, token=torch.randn(1, 4)), (X,))


def test_leaves_a_lone_parameter_and_its_shape() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x.reshape(-1, self.weight.shape[0]) * self.weight

    check_unchanged(fold_constants, module_of(forward, weight=torch.randn(4)), (X,))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x + torch.rand_like(self.weight),
        lambda self, x: x + self.weight.bernoulli(0.5),
        lambda self, x: x + torch.normal(self.weight, 1.0),
        lambda self, x: x + F.dropout(self.weight, 0.5),
    ],
)
def test_leaves_what_is_drawn_anew_each_time(forward: Any) -> None:
    torch.manual_seed(0)
    gm = graph_of(module_of(forward, weight=torch.rand(4)))
    check_unchanged(fold_constants, gm)


def test_does_not_change_a_parameter_in_place() -> None:
    gm = graph_of(module_of(lambda self, x: x + self.weight.add_(1), weight=torch.zeros(4)))
    fold_constants(gm)
    assert not get_tensor(gm, "weight").any()


def test_a_deep_chain_is_no_recursion() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        weight = self.weight
        for _ in range(2000):
            weight = weight + 1
        return x + weight

    check_pass(
        fold_constants, module_of(forward, weight=torch.zeros(4)), (X,), after="(x)\nadd = x + add_1999\nreturn add"
    )
