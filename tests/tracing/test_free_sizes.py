"""A graph with free height and width is the model's at every size, or it is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.export import Dim

import fxquant
from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.tracing.export import export_graph
from tests.support.export import randomized

FREE = ("height", "width")


class Interpolating(nn.Module):
    """Tokens with positions that are interpolated as DINO's published code does, with an offset against rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.positions = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 16, 8))
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        y: Tensor = self.fc(self.norm(tokens + self.positions_for(tokens.shape[1], height, width)))
        return y

    def positions_for(self, count: int, height: int, width: int) -> Tensor:
        if count == 16 and height == width:
            return self.positions
        side = int(math.sqrt(16))
        rows, columns = height // 4, width // 4
        grid = self.positions.reshape(1, side, side, 8).permute(0, 3, 1, 2)
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        assert (rows, columns) == tuple(grid.shape[2:])
        return grid.permute(0, 2, 3, 1).flatten(1, 2)


class Windowed(nn.Module):
    """Attention in windows of 4 x 4, to which the image is padded where it has to be."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(3, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        bottom, right = -height % 4, -width % 4
        padded = F.pad(x, (0, right, 0, bottom)) if bottom or right else x
        rows, columns = padded.shape[2] // 4, padded.shape[3] // 4
        windows = padded.view(batch, 3, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 3)
        q, k, v = self.qkv(windows).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        y: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = y.view(batch, rows, columns, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3, 4)
        return y[:, :, :height, :width] if bottom or right else y


def vit() -> nn.Module:
    options: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **options)
    return model


MODELS = {
    "interpolated positions": (Interpolating, 16),
    "windows that pad": (Windowed, 16),
    "dynamic_img_size": (vit, 32),
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_size(kind: str) -> None:
    torch.manual_seed(0)
    make, side = MODELS[kind]
    model = randomized(make())
    gm = fxquant.trace(model, torch.randn(2, 3, side, side), dynamic=FREE)
    prepared = fxquant.prepare(gm, fxquant.recipe("minmax"))
    prepared(torch.randn(2, 3, side, side))
    fake, int8 = fxquant.convert(prepared, target="fake"), fxquant.convert(prepared)
    odd = (side + 9, side + 3) if kind == "windows that pad" else (side, side)
    for height, width in ((side, side), (side, 2 * side), (side + 16, side + 8), (2 * side, side + 16), odd):
        x = torch.randn(3, 3, height, width)
        with torch.no_grad():
            expected = model(x)
            assert torch.equal(gm(x), expected)
            assert (int8(x) - fake(x)).norm() <= 0.02 * expected.norm()
            assert (int8(x) - expected).norm() <= 0.15 * expected.norm()


@pytest.mark.long
def test_a_third_size_is_not_compiled_again() -> None:
    torch.manual_seed(0)
    model = Interpolating().eval()
    gm = fxquant.quantize(model, [torch.randn(2, 3, 16, 16)], recipe="minmax", dynamic=FREE)
    compiled = fxquant.compile(gm)
    graphs = []
    for sizes in ((16, 16), (16, 24), (32, 24), (40, 20)):
        x = torch.randn(2, 3, *sizes)
        assert (compiled(x) - gm(x)).norm() <= 1e-5 * gm(x).norm()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[2] - graphs[0] <= 2
    assert graphs[3] == graphs[2]


def test_saved_and_loaded(tmp_path: Any) -> None:
    gm = fxquant.quantize(Interpolating().eval(), [torch.randn(2, 3, 16, 16)], dynamic=FREE)
    fxquant.save(gm, tmp_path / "free.safetensors")
    loaded = fxquant.load(tmp_path / "free.safetensors")
    for size in ((16, 16), (24, 32)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(loaded(x), gm(x))


def test_one_axis_by_its_dim() -> None:
    torch.manual_seed(0)
    model, x = Windowed().eval(), torch.randn(2, 3, 16, 16)
    gm = fxquant.trace(model, x, dynamic={"x": {3: Dim("width", min=16, max=64)}})
    wide = torch.randn(2, 3, 16, 30)
    assert torch.equal(gm(wide), model(wide))
    with pytest.raises(InputError, match=r"expected shape \(\*, 3, 16, \*\)"):
        gm(torch.randn(2, 3, 24, 16))


def test_a_model_of_one_size_is_refused() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).eval()
    with pytest.raises(InputError, match="of any size along axis 2 of input 0"):
        fxquant.trace(model, torch.randn(1, 3, 32, 32), dynamic=FREE)


def test_what_no_graph_can_follow_is_refused() -> None:
    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            return y * 2 if x.shape[3] > 28 else y

    with pytest.raises(UnsupportedGraphError, match="does not give what the model gives"):
        fxquant.trace(Threshold().eval(), torch.randn(1, 3, 16, 16), dynamic=FREE)


@pytest.mark.parametrize("dynamic", [("depth",), "height", {"y": {2: Dim.DYNAMIC}}, {"x": {7: Dim.DYNAMIC}}])
def test_other_words_are_refused(dynamic: Any) -> None:
    with pytest.raises(InputError, match="expected dynamic"):
        fxquant.trace(Windowed().eval(), torch.randn(1, 3, 32, 32), dynamic=dynamic)


def test_an_example_is_needed() -> None:
    model = nn.Sequential(nn.Linear(7, 3)).eval()
    with pytest.raises(InputError, match="expected an example input beside dynamic"):
        fxquant.trace(model, dynamic=FREE)


def test_a_size_that_export_stops_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def stops_once(model: nn.Module, inputs: tuple[Any, ...], *rest: Any) -> Any:
        sizes.append(tuple(inputs[0].shape[2:]))
        if len(sizes) == 1:
            raise UnsupportedGraphError("export stopped")
        return export_graph(model, inputs, *rest)

    monkeypatch.setattr("fxquant.tracing.capture.export_graph", stops_once)
    torch.manual_seed(0)
    model, x = Interpolating().eval(), torch.randn(2, 3, 16, 16)
    gm = fxquant.trace(model, x, dynamic=FREE)
    assert len(set(sizes)) == 2
    assert torch.equal(gm(x), model(x))
