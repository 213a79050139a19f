"""`canonicalize` spells each operator one way, and leaves what means something else as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.dialect.spellings import respelling
from fxquant.passes.canonicalize import canonicalize
from tests.support.check_pass import check_pass, check_unchanged, graph_of, module_of

X, Y = torch.randn(2, 4, 4), torch.randn(2, 4, 4)


def test_spells_every_matrix_product_as_matmul() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Any:
        return x @ y, x.matmul(y), torch.bmm(x, mat2=y), x.bmm(y), x[0].mm(y[0]), torch.mm(input=x[0], mat2=y[0])

    check_pass(
        canonicalize,
        module_of(forward),
        (X, Y),
        before="""
            (x, y)
            matmul = x @ y
            matmul_1 = x.matmul(y)
            bmm = torch.bmm(x, mat2=y)
            bmm_1 = x.bmm(y)
            getitem = x[0]
            getitem_1 = y[0]
            mm = getitem.mm(getitem_1)
            getitem_2 = x[0]
            getitem_3 = y[0]
            mm_1 = torch.mm(input=getitem_2, mat2=getitem_3)
            return (matmul, matmul_1, bmm, bmm_1, mm, mm_1)
        """,
        after="""
            (x, y)
            matmul = torch.matmul(x, y)
            matmul_1 = torch.matmul(x, y)
            matmul_2 = torch.matmul(x, y)
            matmul_3 = torch.matmul(x, y)
            getitem = x[0]
            getitem_1 = y[0]
            matmul_4 = torch.matmul(getitem, getitem_1)
            getitem_2 = x[0]
            getitem_3 = y[0]
            matmul_5 = torch.matmul(getitem_2, getitem_3)
            return (matmul, matmul_1, matmul_2, matmul_3, matmul_4, matmul_5)
        """,
    )


def test_puts_arguments_in_their_places_and_drops_defaults() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = F.linear(bias=self.bias, weight=self.weight, input=x)
        x = F.layer_norm(x, (4,), weight=None, bias=None, eps=1e-5)
        return F.gelu(input=x, approximate="none")

    check_pass(
        canonicalize,
        module_of(forward, weight=torch.randn(4, 4), bias=torch.randn(4)),
        (X,),
        before="""
            (x)
            linear = F.linear(bias=bias, weight=weight, input=x)
            layer_norm = F.layer_norm(linear, (4,), weight=None, bias=None, eps=1e-05)
            gelu = F.gelu(input=layer_norm, approximate='none')
            return gelu
        """,
        after="""
            (x)
            linear = F.linear(x, weight, bias)
            layer_norm = F.layer_norm(linear, (4,))
            gelu = F.gelu(layer_norm)
            return gelu
        """,
    )


def test_keeps_settings_that_are_not_defaults() -> None:
    def forward(self: nn.Module, x: Tensor) -> Any:
        return (
            F.gelu(x, approximate="tanh"),
            x.softmax(-1, dtype=torch.float64),
            torch.layer_norm(x, (4,), None, None, 1e-3, False),
            F.scaled_dot_product_attention(x, x, x, attn_mask=None, is_causal=True, scale=0.25),
        )

    check_pass(
        canonicalize,
        module_of(forward),
        (X,),
        after="""
            (x)
            gelu = F.gelu(x, approximate='tanh')
            softmax = F.softmax(x, -1, dtype=torch.float64)
            layer_norm = F.layer_norm(x, (4,), None, None, 0.001)
            scaled_dot_product_attention = F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.25)
            return (gelu, softmax, layer_norm, scaled_dot_product_attention)
        """,
    )


@pytest.mark.parametrize(
    "spelling",
    [
        lambda self, x: x.softmax(-1),
        lambda self, x: x.softmax(dim=-1),
        lambda self, x: torch.softmax(x, -1),
        lambda self, x: F.softmax(x, dim=-1, _stacklevel=5),
        lambda self, x: F.softmax(input=x, dim=-1, dtype=None),
    ],
)
def test_spells_softmax_one_way(spelling: Callable[..., Tensor]) -> None:
    after = """
        (x)
        softmax = F.softmax(x, -1)
        return softmax
    """
    check_pass(canonicalize, module_of(spelling), (X,), after=after)


def test_drops_what_does_nothing_at_inference() -> None:
    class Regularised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.maps = nn.Dropout(0.5), nn.Dropout2d(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.maps(self.drop(x)[None])[0]
            return F.dropout(input=x.detach(), p=0.1, training=False) + torch.dropout(x, 0.3, train=False)

    check_pass(
        canonicalize,
        Regularised(),
        (X,),
        after="""
            (x)
            getitem = x[None]
            getitem_1 = getitem[0]
            add = getitem_1 + getitem_1
            return add
        """,
    )


def test_keeps_a_dropout_that_is_always_on() -> None:
    gm = graph_of(module_of(lambda self, x: F.dropout(x, 0.5) + F.dropout(x, 0.0)))
    check_pass(
        canonicalize,
        gm,
        (),
        after="""
            (x)
            dropout = F.dropout(x, p=0.5, training=True, inplace=False)
            add = dropout + x
            return add
        """,
    )


def test_spells_arithmetic_as_operators() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x.sub(torch.mul(x, y)), x.add(2).mul(y))

    check_pass(
        canonicalize,
        module_of(forward),
        (X, Y),
        after="""
            (x, y)
            mul = x * y
            sub = x - mul
            add = x + 2
            mul_1 = add * y
            truediv = sub / mul_1
            return truediv
        """,
    )


def test_leaves_arithmetic_with_settings_alone() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Any:
        return torch.add(x, y, alpha=2), x.sub(y, alpha=3), torch.div(x, y, rounding_mode="floor")

    check_unchanged(canonicalize, module_of(forward), (X, Y))


def test_leaves_a_product_that_writes_elsewhere_alone() -> None:
    gm = graph_of(module_of(lambda self, x, y: torch.mm(x, y, out_dtype=torch.float32)))
    check_unchanged(canonicalize, gm)
    assert all(respelling(node) is None for node in gm.graph.nodes)


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "canonical"),
    [
        ("valid", 3, 1, "0, (1, 1)"),
        ("same", 3, 1, "(1, 1), (1, 1)"),
        ("same", (1, 5), 1, "(0, 2), (1, 1)"),
        ("same", 3, 2, "(2, 2), (2, 2)"),
        ("same", 2, 2, "(1, 1), (2, 2)"),
    ],
)
def test_pads_convolutions_by_number(padding: str, kernel: Any, dilation: int, canonical: str) -> None:
    check_pass(
        canonicalize,
        nn.Conv2d(4, 2, kernel, padding=padding, dilation=dilation),
        (torch.randn(1, 4, 6, 6),),
        after=f"""
            (input)
            conv2d = F.conv2d(input, weight, bias, (1, 1), {canonical})
            return conv2d
        """,
    )


def test_leaves_an_uneven_padding_by_name() -> None:
    gm = check_pass(
        canonicalize,
        nn.Conv2d(4, 2, 2, padding="same"),
        (torch.randn(1, 4, 6, 6),),
        after="""
            (input)
            conv2d = F.conv2d(input, weight, bias, (1, 1), 'same', (1, 1))
            return conv2d
        """,
    )
    check_unchanged(canonicalize, gm)


def test_cleans_messages_that_were_written_while_sizes_were_proxies() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 4, f"Height ({x.shape[1]}) is not 4.")
        return x

    check_pass(
        canonicalize,
        module_of(forward),
        (X,),
        after="""
            (x)
            shape = x.shape
            getitem = shape[1]
            eq = getitem == 4
            _assert = torch._assert(eq, 'Height is not 4.')
            return x
        """,
    )


def test_keeps_what_a_node_knew_of_its_origin() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Softmax(dim=-1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x)  # type: ignore[no-any-return]

    gm = canonicalize(graph_of(Block())).graph_module
    (softmax,) = [n for n in gm.graph.nodes if n.target is F.softmax]
    assert [path for path, _ in softmax.meta["nn_module_stack"].values()] == ["act"]
    assert "test_canonicalize.py" in softmax.meta["stack_trace"]


def test_views_are_reshaped() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Any:
        return x.view(2, -1), x.view_as(y)

    check_pass(
        canonicalize,
        module_of(forward),
        (X, Y),
        after="""
            (x, y)
            reshape = x.reshape(2, -1)
            reshape_as = x.reshape_as(y)
            return (reshape, reshape_as)
        """,
    )


def test_a_view_as_another_dtype_stays() -> None:
    check_unchanged(canonicalize, module_of(lambda self, x: x.view(torch.int32)), (X,))


def test_an_int8_convolution_may_be_viewed() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.head(y.view(y.shape[0], -1))

    torch.manual_seed(0)
    model, images = Flat().eval(), torch.randn(2, 3, 4, 4)
    int8 = fxquant.quantize(model, [images])
    assert fxquant.report(int8).coverage == 1.0
    with torch.no_grad():
        torch.testing.assert_close(int8(images), model(images), atol=0.05, rtol=0.05)
