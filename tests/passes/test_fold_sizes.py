"""`fold_sizes` writes what is fixed as numbers and leaves what the batch or a free image size decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage
from fxquant.passes.fold_sizes import fold_sizes
from tests.support.check_pass import check_pass, check_unchanged, module_of, render
from tests.support.lowered import lowered


class Windows(nn.Module):
    """A layer on windows of 2 x 2 pixels of an image ``(B, H, W, 4)``, which is padded to whole windows."""

    def __init__(self, bound: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.position = nn.Parameter(torch.randn(4, 4, 4)) if bound else None
        self.fc = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        torch._assert(channels == 4, "expected 4 channels")
        if self.position is not None:
            x = x + self.position
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        _, rows, columns, _ = x.shape
        x = x.view(batch, rows // 2, 2, columns // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        x = self.fc(x).view(-1, rows // 2, columns // 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, rows, columns, 8)[:, :height, :width, :]


X = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_an_image_of_fixed_size() -> None:
    gm = check_pass(
        fold_sizes,
        lowered(Windows(bound=True), X),
        (X,),
        after="""
            (x)
            check_input = check_input(x, (None, 4, 4, 4), 'x')
            size = check_input.size(0)
            add = check_input + position
            reshape = add.reshape(size, 2, 2, 2, 2, 4)
            permute = reshape.permute(0, 1, 3, 2, 4, 5)
            reshape_1 = permute.reshape(-1, 4, 4)
            quantize = quantize(reshape_1, fc.input_scale, fc.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, fc.weight_int8, fc.scale, fc.bias_folded, None, None, torch.float32, True)
            reshape_2 = int8_linear.reshape(-1, 2, 2, 2, 2, 8)
            permute_1 = reshape_2.permute(0, 1, 3, 2, 4, 5)
            reshape_3 = permute_1.reshape(size, 4, 4, 8)
            return reshape_3
        """,
        stage=Stage.LOWERED,
    )
    original = lowered(Windows(bound=True), X)
    for batch in (0, 1, 3, 5):
        x = torch.randn(batch, 4, 4, 4)
        assert torch.equal(gm(x), original(x))


def test_a_free_image_size_is_computed() -> None:
    original = lowered(Windows(bound=False), X)
    gm = fold_sizes(lowered(Windows(bound=False), X)).graph_module
    lines = render(gm).splitlines()
    assert "size = check_input.size(0)" in lines
    assert any("pad(" in line for line in lines), "other sizes need it"
    assert not any("_assert" in line for line in lines)
    for shape in ((2, 4, 4, 4), (3, 5, 7, 4), (1, 8, 6, 4), (0, 3, 4, 4)):
        x = torch.randn(shape)
        assert torch.equal(gm(x), original(x))
    assert not fold_sizes(gm).modified


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_calibration_batch_is_no_constant(batch: int) -> None:
    x = X[:1].repeat(batch, 1, 1, 1)
    gm = fold_sizes(lowered(Windows(bound=True), x)).graph_module
    assert "reshape_3 = permute_1.reshape(size, 4, 4, 8)" in render(gm)
    found = torch.cat([gm(image[None]) for image in X])
    assert torch.equal(gm(X), found)


def _first_rows(self: Any, x: Tensor) -> Tensor:
    return F.linear(x, self.w)[:, :5, :]


def test_a_slice_of_as_much_as_the_example_has_stays() -> None:
    x = torch.randn(2, 5, 4)
    check_unchanged(fold_sizes, lowered(module_of(_first_rows, w=torch.randn(4, 4)), x), (x,), Stage.LOWERED)


def _parts(self: Any, x: Tensor) -> Any:
    y = F.linear(x, self.w)
    return y[:, 1:], y[:, :-1, :], y[:, :, ::2], y[:1], y[..., :4], F.pad(y, (0, 0, 0, 1)), y[:2, :, :4]


def test_slices_and_padding_that_do_something_stay() -> None:
    x = torch.randn(2, 5, 4)
    check_unchanged(fold_sizes, lowered(module_of(_parts, w=torch.randn(4, 4)), x), (x,), Stage.LOWERED)


def _pairs(self: Any, x: Tensor) -> Tensor:
    pairs = x.view(x.shape[0] // 2, 2, x.shape[1], 4)
    return F.linear(pairs.flatten(1, 2), self.w)


def test_a_model_of_pairs_of_images_stays_or_keeps_its_sizes() -> None:
    x = torch.randn(4, 5, 4)
    original = lowered(module_of(_pairs, w=torch.randn(4, 4)), x)
    gm = fold_sizes(lowered(module_of(_pairs, w=torch.randn(4, 4)), x)).graph_module
    gm.load_state_dict(original.state_dict())
    for batch in (2, 4, 6):
        images = torch.randn(batch, 5, 4)
        assert torch.equal(gm(images), original(images))


def test_a_graph_of_unknown_shapes_stays() -> None:
    gm = fxquant.trace(Windows(bound=True).eval())
    check_unchanged(fold_sizes, gm, (X,))
    propagate_shapes(gm, (X,))
    check_unchanged(fold_sizes, gm, (X,))  # nothing checks its input


def test_several_reads_of_the_batch_become_one() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = F.linear(x, self.w)
        return y.reshape(x.size(0), -1).view(y.shape[0], 5, 2, 2)

    x = torch.randn(2, 5, 4)
    check_pass(
        fold_sizes,
        lowered(module_of(forward, w=torch.randn(4, 4)), x),
        (x,),
        after="""
            (x)
            check_input = check_input(x, (None, 5, 4), 'x')
            size = check_input.size(0)
            quantize = quantize(check_input, linear.input_scale, linear.input_zero_point, 0, 255)
            int8_linear = int8_linear(quantize, linear.weight_int8, linear.scale, linear.bias_folded, None, None, \
torch.float32, True)
            reshape = int8_linear.reshape(size, 20)
            reshape_1 = reshape.reshape(size, 5, 2, 2)
            return reshape_1
        """,
        stage=Stage.LOWERED,
    )
