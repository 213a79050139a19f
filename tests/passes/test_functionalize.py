"""`functionalize` replaces in-place operators where values say the same, and refuses where memory is shared."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.errors import UnsupportedGraphError
from fxquant.passes.functionalize import functionalize
from tests.support.check_pass import check_pass, check_unchanged, graph_of, module_of

X = torch.randn(2, 4)


def test_later_readers_read_the_new_value() -> None:
    def forward(self: nn.Module, x: Tensor) -> Any:
        y = x * 2
        before = y.exp()
        y.add_(1)
        torch.relu_(y)
        return before, y * 3

    check_pass(
        functionalize,
        module_of(forward),
        (X,),
        before="""
            (x)
            mul = x * 2
            exp = mul.exp()
            add_ = mul.add_(1)
            relu_ = F.relu_(mul)
            mul_1 = mul * 3
            return (exp, mul_1)
        """,
        after="""
            (x)
            mul = x * 2
            exp = mul.exp()
            add = mul.add(1)
            relu = torch.relu(add)
            mul_1 = relu * 3
            return (exp, mul_1)
        """,
    )


def test_keeps_a_change_whose_result_nobody_names() -> None:
    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            self.act(x)
            return x

    check_pass(
        functionalize,
        Activated(),
        (X,),
        after="""
            (x)
            linear = F.linear(x, fc.weight, fc.bias)
            relu = F.relu(linear, False)
            return relu
        """,
    )


def test_augmented_assignment_changes_every_name_of_a_tensor() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = x * 2
        shortcut = x
        x += 1
        return x * shortcut

    check_pass(
        functionalize,
        module_of(forward),
        (X,),
        after="""
            (x)
            mul = x * 2
            add = mul + 1
            mul_1 = add * add
            return mul_1
        """,
    )


def test_augmented_assignment_of_a_size_makes_a_new_number() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        rows = x.shape[0]
        half = rows
        half //= 2
        return x.reshape(half, rows, -1)

    check_pass(
        functionalize,
        module_of(forward),
        (torch.randn(2, 6),),
        after="""
            (x)
            shape = x.shape
            getitem = shape[0]
            floordiv = getitem // 2
            reshape = x.reshape(floordiv, getitem, -1)
            return reshape
        """,
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda self, x: F.leaky_relu(x, 0.1, True), "leaky_relu = F.leaky_relu(x, 0.1, False)"),
        (lambda self, x: F.silu(x, inplace=True), "silu = F.silu(x, False)"),
        (lambda self, x: x.clamp_(min=0), "clamp = x.clamp(min=0)"),
        (lambda self, x: torch.sigmoid_(x), "sigmoid = torch.sigmoid(x)"),
    ],
)
def test_knows_every_way_to_say_in_place(call: Callable[..., Tensor], text: str) -> None:
    name = text.partition(" ")[0]
    check_pass(functionalize, module_of(call), (X,), after=f"(x)\n{text}\nreturn {name}")


def test_a_changed_tensor_keeps_its_dtype_in_a_model_of_several() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = x.bfloat16()
        y += self.weight
        return y

    check_pass(
        functionalize,
        module_of(forward, weight=torch.randn(4)),
        (X,),
        after="""
            (x)
            bfloat16 = x.bfloat16()
            add = bfloat16 + weight
            type_as = add.type_as(bfloat16)
            return type_as
        """,
    )


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: F.relu(x, inplace=False) + F.leaky_relu(x, 0.1),
        lambda self, x: x.requires_grad_(False) * 2,
        lambda self, x: x.__add__(1),
    ],
)
def test_leaves_values_alone(forward: Callable[..., Tensor]) -> None:
    check_unchanged(functionalize, module_of(forward), (X,))


def test_views_made_after_the_change_are_no_obstacle() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        size = x.shape
        y = x.clone()
        y.mul_(2)
        return y.view(-1) + x.view(size[0] * size[1])

    check_pass(
        functionalize,
        module_of(forward),
        (X,),
        after="""
            (x)
            clone = x.clone()
            mul = clone.mul(2)
            view = mul.view(-1)
            shape = x.shape
            getitem = shape[0]
            getitem_1 = shape[1]
            mul_1 = getitem * getitem_1
            view_1 = x.view(mul_1)
            add = view + view_1
            return add
        """,
    )


def _view_read_later(self: nn.Module, x: Tensor) -> Tensor:
    rows = x.view(-1)
    x.mul_(2)
    return rows


def _base_read_later(self: nn.Module, x: Tensor) -> Tensor:
    x[:, 0].mul_(3)
    return x


def _dropped_out_alias(self: nn.Module, x: Tensor) -> Tensor:
    y = F.dropout(x, 0.5, False)
    y += 1
    return x


def _parameter(self: Any, x: Tensor) -> Tensor:
    self.weight.view(-1).mul_(2)
    return x * self.weight


def _no_other_form(self: nn.Module, x: Tensor) -> Tensor:
    return x.zero_()


def _out(self: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    torch.exp(x, out=y)
    return y


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (_view_read_later, "node 'output' reads 'view' afterwards"),
        (_base_read_later, "node 'output' reads 'x' afterwards"),
        (_dropped_out_alias, "node 'output' reads 'x' afterwards"),
        (_parameter, "it changes a parameter or buffer"),
        (_no_other_form, "no form that returns a new value"),
        (_out, "no form that returns a new value"),
    ],
)
def test_refuses_what_values_cannot_say(forward: Callable[..., Tensor], reason: str) -> None:
    gm = graph_of(module_of(forward, weight=torch.ones(2, 4)))
    with pytest.raises(UnsupportedGraphError, match=re.escape(reason)) as raised:
        functionalize(gm)
    line = forward.__code__.co_firstlineno
    assert re.search(rf'test_functionalize.py", line {line + 1}|line {line + 2}', str(raised.value))
