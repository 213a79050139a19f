"""`respell_aten` spells what torch.export records as the functional dialect does, and leaves what it cannot spell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from fxquant.dialect.aten_table import RESIZES, ROWS
from fxquant.passes.respell_aten import _RULES, respell_aten
from tests.support.check_pass import check_pass, check_unchanged, module_of

aten = torch.ops.aten
Forward = Callable[..., Any]


def images() -> Tensor:
    return torch.randn(2, 4, 6, 6)


def check(forward: Forward, inputs: list[Tensor], line: str, **tensors: Tensor) -> fx.GraphModule:
    """Check that a graph of one operator reads ``line`` afterwards, with the same result."""
    names = forward.__code__.co_varnames[1 : forward.__code__.co_argcount]
    result = line.partition(" = ")[0] if " = " in line else line
    body = f"{line}\n" if " = " in line else ""
    after = f"({', '.join(names)})\n{body}return {result}"
    return check_pass(respell_aten, with_values(module_of(forward, **tensors), inputs), inputs, after=after)


def with_values(module: nn.Module, inputs: list[Tensor]) -> fx.GraphModule:
    """Return the graph of a module with the value of each node in its meta, as export leaves it."""
    gm = fx.symbolic_trace(module)

    class Record(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            n.meta["val"] = super().run_node(n)
            return n.meta["val"]

    with torch.no_grad():
        Record(gm).run(*[x.clone() for x in inputs])
    return gm


def linear(self: Any, x: Tensor) -> Any:
    return aten.linear.default(x, self.w, self.b)


def test_products() -> None:
    w, b = torch.randn(3, 6), torch.randn(3)
    check(linear, [images()], "linear = F.linear(x, w, b)", w=w, b=b)
    check(lambda self, x: aten.linear.default(x, self.w), [images()], "linear = F.linear(x, w)", w=w)
    check(
        lambda self, x: aten.conv2d.default(x, self.w, None, [2, 2], [1, 1]),
        [images()],
        "conv2d = F.conv2d(x, w, None, (2, 2), (1, 1))",
        w=torch.randn(8, 4, 3, 3),
    )
    check(
        lambda self, x: aten.conv2d.padding(x, self.w, None, [1, 1], "same"),
        [images()],
        "conv2d = F.conv2d(x, w, None, (1, 1), 'same')",
        w=torch.randn(8, 4, 3, 3),
    )
    x, y = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    check(lambda self, x, y: aten.bmm.default(x, y), [x, y], "matmul = torch.matmul(x, y)")
    check(lambda self, x, y: aten.matmul.default(x, y), [x, y], "matmul = torch.matmul(x, y)")
    check(
        lambda self, x, y: aten.einsum.default("bij,bjk->bik", [x, y]),
        [x, y],
        "einsum = torch.einsum('bij,bjk->bik', x, y)",
    )
    check(
        lambda self, x: aten.scaled_dot_product_attention.default(x, x, x, None, 0.0, False, scale=0.5),
        [images()],
        "scaled_dot_product_attention = F.scaled_dot_product_attention(x, x, x, None, scale=0.5)",
    )


def test_norms_and_activations() -> None:
    w, b = torch.rand(6), torch.rand(6)
    check(
        lambda self, x: aten.layer_norm.default(x, [6], self.w, self.b, 1e-6),
        [images()],
        "layer_norm = F.layer_norm(x, (6,), w, b, 1e-06)",
        w=w,
        b=b,
    )
    check(
        lambda self, x: aten.batch_norm.default(x, self.w, self.b, self.m, self.v, False, 0.1, 1e-5, True),
        [images()],
        "batch_norm = F.batch_norm(x, m, v, w, b, False, 0.1, 1e-05)",
        **{name: torch.rand(4) for name in "wbmv"},
    )
    check(lambda self, x: aten.gelu.default(x), [images()], "gelu = F.gelu(x)")
    check(lambda self, x: aten.gelu.default(x, approximate="tanh"), [images()], "gelu = F.gelu(x, approximate='tanh')")
    check(lambda self, x: aten.softmax.int(x, -1), [images()], "softmax = F.softmax(x, -1)")
    check(
        lambda self, x: aten.softmax.int(x, -1, torch.float64),
        [images()],
        "softmax = F.softmax(x, -1, dtype=torch.float64)",
    )
    check(lambda self, x: aten.relu_.default(x), [images()], "relu = F.relu(x, inplace=True)")


def test_arithmetic() -> None:
    x, y = images(), images()
    check(lambda self, x, y: aten.add.Tensor(x, y), [x, y], "add = x + y")
    check(lambda self, x: aten.div.Tensor(x, 8.0), [x], "truediv = x / 8.0")
    check(lambda self, x: aten.rsub.Scalar(x, 1), [x], "sub = 1 - x")
    check(lambda self, x: aten.pow.Tensor_Scalar(x, 2), [x], "pow = x ** 2")
    check(lambda self, x: aten.neg.default(x), [x], "neg = -x")
    check(lambda self, x: aten.mul_.Tensor(x, 2), [x], "mul_ = x.mul_(2)")
    check(lambda self, x: aten.clamp.default(x, 0.0), [x], "clamp = torch.clamp(x, 0.0)")
    check(
        lambda self, x: aten.div.Tensor_mode(x, 2, rounding_mode="floor"),
        [x],
        "div = torch.div(x, 2, rounding_mode='floor')",
    )


def test_shapes() -> None:
    x = images()
    check(lambda self, x: aten.view.default(x, [2, 4, 36]), [x], "view = x.view(2, 4, 36)")
    check(lambda self, x: aten.permute.default(x, [0, 2, 3, 1]), [x], "permute = x.permute(0, 2, 3, 1)")
    check(lambda self, x: aten.transpose.int(x, 1, -1), [x], "transpose = x.transpose(1, -1)")
    check(lambda self, x: aten.flatten.using_ints(x, 2), [x], "flatten = x.flatten(2)")
    check(lambda self, x: aten.mean.dim(x, [2, 3], True), [x], "mean = x.mean((2, 3), True)")
    check(lambda self, x: aten.cat.default([x, x], 1), [x], "cat = torch.cat([x, x], 1)")
    check(lambda self, x: aten.sym_size.int(x, 0), [x], "size = x.size(0)")
    check(
        lambda self, x: aten.contiguous.default(x, memory_format=torch.channels_last),
        [x],
        "contiguous = x.contiguous(memory_format=torch.channels_last)",
    )


def test_indexing() -> None:
    x, i = images(), torch.tensor([1, 0])
    check(lambda self, x: aten.mT.default(x), [x], "transpose = x.transpose(-2, -1)")
    check(lambda self, x: aten.select.int(x, 0, 1), [x], "getitem = x[1]")
    check(lambda self, x: aten.select.int(x, -1, 0), [x], "getitem = x[:, :, :, 0]")
    check(lambda self, x: aten.slice.Tensor(x, 1, 1, 2**63 - 1), [x], "getitem = x[:, 1:]")
    check(lambda self, x: aten.slice.Tensor(x, 1, 0, 4, 2), [x], "getitem = x[:, ::2]")
    check(lambda self, x: aten.slice.Tensor(x, 0, 0, 2**63 - 1), [x], "x")
    check(lambda self, x: aten.slice.Tensor(x, 1, 0, 4), [x], "x")
    check(lambda self, x, i: aten.index.Tensor(x, [None, i]), [x, i], "getitem = x[:, i]")
    check(lambda self, x, i: aten.index.Tensor(x, [i]), [x, i], "getitem = x[i]")


def test_resizing() -> None:
    x = images()
    check(
        lambda self, x: aten.upsample_bilinear2d.vec(x, [3, 9], False, None),
        [x],
        "interpolate = F.interpolate(x, size=(3, 9), mode='bilinear')",
    )
    check(
        lambda self, x: aten.upsample_nearest2d.vec(x, None, [2.0, 2.0]),
        [x],
        "interpolate = F.interpolate(x, scale_factor=(2.0, 2.0), mode='nearest')",
    )
    check(
        lambda self, x: aten._upsample_bicubic2d_aa.vec(x, [3, 3], True, None),
        [x],
        "interpolate = F.interpolate(x, size=(3, 3), align_corners=True, antialias=True, mode='bicubic')",
    )


def test_drops_what_does_nothing() -> None:
    x = images()
    check(lambda self, x: aten.dropout.default(x, 0.1, False), [x], "x")
    check(lambda self, x: aten.dropout_.default(x, 0.1, False), [x], "x")
    check(lambda self, x: aten.alias.default(x), [x], "x")
    check(lambda self, x: aten.to.dtype(x, torch.float32), [x], "x")
    check(lambda self, x: aten.to.dtype_layout(x, dtype=torch.float32, device=torch.device("cpu")), [x], "x")
    check(lambda self, x, y: aten.type_as.default(x, y), [x, images()], "x")


def test_casts() -> None:
    x = images()
    check(lambda self, x: aten.to.dtype(x, torch.float16), [x], "to = x.to(torch.float16)")
    check(lambda self, x: aten.to.device(x, torch.device("cpu"), torch.int64), [x], "to = x.to(torch.int64)")
    check(lambda self, x, y: aten.type_as.default(x, y), [x, images().double()], "type_as = x.type_as(y)")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: aten.add.Tensor(x, x, alpha=2),
        lambda self, x: aten.embedding.default(x, torch.tensor([1]), 0),
        lambda self, x: aten.dropout.default(x, 0.0, True),
        lambda self, x: aten.elu.default(x, 1.0, 2.0),
        lambda self, x: torch.add(x, x),
    ],
)
def test_leaves_what_has_no_other_spelling(forward: Forward) -> None:
    check_unchanged(respell_aten, with_values(module_of(forward), [torch.randn(3, 4)]), [torch.randn(3, 4)])


def test_leaves_slices_of_unknown_rank() -> None:
    check_unchanged(respell_aten, fx.symbolic_trace(module_of(lambda self, x: aten.select.int(x, -1, 0))), [images()])


def test_keeps_an_in_place_operator_whose_result_nobody_reads() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        part = x[0]
        aten.add_.Tensor(part, 1)
        return x

    check_unchanged(respell_aten, with_values(module_of(forward), [images()]), [images()])


def test_names_and_origin_are_kept() -> None:
    gm = fx.symbolic_trace(module_of(linear, w=torch.randn(3, 6), b=torch.randn(3)))
    node = next(n for n in gm.graph.nodes if n.op == "call_function")
    name, node.meta["nn_module_stack"] = node.name, {"fc": ("fc", nn.Linear)}
    respell_aten(gm)
    found = next(n for n in gm.graph.nodes if n.op == "call_function")
    assert (found.name, found.meta["nn_module_stack"]) == (name, {"fc": ("fc", nn.Linear)})


@pytest.mark.parametrize("name", [*ROWS, *RESIZES, *_RULES])
def test_the_table_names_real_operators_and_arguments(name: str) -> None:
    packet, _, overload = name.partition(".")
    found = getattr(getattr(aten, packet, None), overload, None)
    assert found is not None, f"torch.ops.aten has no {name}"
    arguments = {a.name for a in found._schema.arguments}
    if name in ROWS:
        target, words = ROWS[name]
        named = {word.lstrip("*") for word in words.replace("/", " ").split()} - {"inplace=True"}
        assert named <= arguments
        assert callable(target) or hasattr(Tensor, target)


def normed(self: Any, x: Tensor) -> Any:
    return aten._native_batch_norm_legit_no_training.default(x, self.w, self.b, self.m, self.v, 0.1, 1e-5)


def test_a_batch_norm_with_statistics_that_nothing_reads() -> None:
    tensors = dict(zip("wbmv", torch.rand(4, 4), strict=True))
    inputs = [images()]
    gm = with_values(module_of(lambda self, x: normed(self, x)[0], **tensors), inputs)
    after = "(x)\nbatch_norm = F.batch_norm(x, m, v, w, b, False, 0.1, 1e-05)\nreturn batch_norm"
    check_pass(respell_aten, gm, inputs, after=after)
    check_unchanged(respell_aten, module_of(lambda self, x: normed(self, x)[:2], **tensors), inputs)
