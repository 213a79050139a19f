"""What torch.export captures where symbolic tracing stops: bit for bit the model, in the functional dialect, any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, nn

from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.graph.meta import module_path
from fxquant.tracing.capture import capture
from fxquant.tracing.export import export_graph
from tests.support.export import Tiny, check_capture, randomized, small_module
from tests.support.tiers import keep_quick

FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "XCiT": ("xcit_nano_12_p8_224", 32, {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2}),
    "Hiera": ("hiera_tiny_224", 64, {"img_size": 64, "stages": (1, 1, 1, 1), "embed_dim": 16}),
    "MobileViT": ("mobilevit_xxs", 64, {"img_size": 64}),
    "MobileViTv2": ("mobilevitv2_050", 64, {"img_size": 64}),
    "MaxViT": ("test_maxvit", 64, {"img_size": 64}),
    "Twins": ("twins_svt_small", 64, {"img_size": 64, "depths": (1,) * 4, "embed_dims": (16, 32, 48, 64)}),
    "LeViT": ("levit_128s", 64, {"img_size": 64, "depth": (1,) * 3, "embed_dim": (32, 48, 64)}),
    "TinyViT": ("tiny_vit_5m_224", 64, {"depths": (1,) * 4, "embed_dims": (16, 32, 64, 64), "num_heads": (1, 1, 2, 2)}),
    "NeXtViT": ("nextvit_small", 32, {"depths": (1, 1, 5, 1)}),
    "ConViT": ("convit_tiny", 32, {"img_size": 32, "depth": 2, "local_up_to_layer": 1}),
    "EfficientViT": ("efficientvit_b0", 32, {"depths": (1,) * 4}),
    "SAM": ("samvit_base_patch16_224", 64, {"img_size": 64, "depth": 1, "embed_dim": 32, "num_heads": 2}),
}


def build(family: str) -> nn.Module:
    name, _, options = FAMILIES[family]
    torch.manual_seed(0)
    return randomized(timm.create_model(name, **options))


SLOW = {"LeViT", "MaxViT", "MobileViT", "NeXtViT", "SAM", "TinyViT"}


@pytest.mark.parametrize("family", keep_quick(FAMILIES, *(family for family in FAMILIES if family not in SLOW)))
def test_captures_a_family_bit_for_bit(family: str) -> None:
    model, size = build(family), FAMILIES[family][1]
    gm = export_graph(model, (torch.randn(1, 3, size, size),), "")
    check_capture(model, gm, (3, size, size))
    left = {str(n.target) for n in gm.graph.nodes if str(n.target).startswith("aten.")}
    assert not left, "these operators have no row in aten_table"


def test_assignments_to_parts_of_a_tensor_become_values() -> None:
    torch.manual_seed(0)
    config = MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=1)
    model = randomized(MultiScaleVit(config, img_size=32, num_classes=5))
    gm = export_graph(model, (torch.randn(2, 3, 32, 32),), "")
    check_capture(model, gm, (3, 32, 32))


def test_bfloat16() -> None:
    model = build("XCiT").bfloat16()
    gm = export_graph(model, (torch.randn(1, 3, 32, 32, dtype=torch.bfloat16),), "")
    check_capture(model, gm, (3, 32, 32), torch.bfloat16)


def test_leaves_the_model_as_it_was() -> None:
    model = Tiny().eval()
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    attributes = set(vars(model))
    export_graph(model, (torch.randn(1, 3, 8, 8),), "")
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == which and torch.equal(after[name], value) for name, (which, value) in before.items())
    assert set(vars(model)) == attributes


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.position: Tensor | None = None
        self.masks: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.position is None:
            self.position = torch.arange(x.shape[1], dtype=x.dtype)
        y: Tensor = self.fc(x + self.position)
        return y * self.mask(y.shape[0]) if y.shape[1] > 3 else y

    def mask(self, rows: int) -> Tensor:
        if 4 not in self.masks:
            self.masks[4] = torch.full((4,), 2.0)
        return self.masks[4]


def test_what_a_forward_keeps_for_its_next_call() -> None:
    model = nn.Sequential(Caching()).eval()
    gm = capture(model, torch.randn(2, 4))
    caching = model.get_submodule("0")
    assert caching.position is None
    assert caching.masks == {}
    check_capture(model, gm, (4,))
    check_capture(model, capture(model, torch.randn(2, 4)), (4,))


def test_arguments_that_are_no_tensors_keep_their_value() -> None:
    def function(self: Any, *inputs: Any) -> Tensor:
        x, _, scale, shift = inputs
        result: Tensor = self.fc(x) * scale + shift
        return result if x.shape[1] > 3 else x

    model, x, shift = small_module(function), torch.randn(3, 4), torch.randn(3, 4)
    gm = export_graph(model, (torch.randn(2, 4), None, 3.0, torch.randn(2, 4)), "")
    assert len(gm.graph.find_nodes(op="placeholder")) == 2
    assert torch.equal(gm(x, shift), model(x, None, 3.0, shift))


def test_in_place_operators_become_functions() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        x = self.fc(x).relu_()
        x += 1
        x[:, 0] = x[:, 1] * 2
        return x

    model = small_module(function)
    gm = export_graph(model, (torch.randn(1, 4),), "")
    x = torch.randn(3, 4)
    assert torch.equal(gm(x), model(x))
    assert any(n.target is torch.select_scatter for n in gm.graph.nodes)


def test_a_forward_that_changes_its_input() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x.mul_(2))
        return result

    model, example = small_module(function), torch.randn(1, 4)
    kept = example.clone()
    gm = export_graph(model, (example,), "")
    x = torch.randn(3, 4)
    assert torch.equal(gm(x), model(x.clone()))
    assert torch.equal(example, kept)


def test_multihead_attention_is_opened() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.shape[1] > 1 else x

    model = Encoder().eval()
    gm = export_graph(model, (torch.randn(1, 3, 8),), "")
    assert [module_path(n) for n in gm.graph.nodes if n.target is F.linear][-2:] == ["layer.linear1", "layer.linear2"]
    x = torch.randn(5, 3, 8)
    torch.testing.assert_close(gm(x), model(x))


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_refuses_a_branch_on_values_naming_module_and_line(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Gate()).eval()
    with pytest.raises(UnsupportedGraphError) as raised:
        capture(model, torch.randn(1, 4))
    symbolic, exported, advice = str(raised.value).splitlines()
    assert symbolic.startswith("symbolic tracing stopped in module 1 (Gate), at ")
    assert exported.startswith("torch.export stopped as well, in module 1 (Gate), at ")
    for line in (symbolic, exported):
        assert "test_export.py" in line
        assert '"if x.sum() > 0:"' in line
    assert "no branch on the values of a tensor" in advice
    assert capfd.readouterr().err == ""


def refused(function: Callable[..., Any], *inputs: Any, **tensors: Tensor) -> str:
    with pytest.raises(UnsupportedGraphError) as raised:
        export_graph(small_module(function, **tensors), inputs or (torch.randn(1, 4),), "the symbolic reason")
    assert str(raised.value).startswith("the symbolic reason\n")
    return str(raised.value)


def test_refuses_a_fixed_batch_size() -> None:
    assert "one batch size only" in refused(lambda self, x: self.fc(x) / int(x.shape[0]))
    assert "one batch size only" in refused(lambda self, x: self.fc(x).reshape(2, 4), torch.randn(2, 4))


def test_refuses_control_flow_in_the_graph() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.fc(x),))
        return result

    assert "needs the operator cond" in refused(function)


def test_refuses_to_change_a_buffer_and_does_not() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        result: Tensor = self.fc(x) + self.count
        return result

    count = torch.zeros(4)
    assert "changes" in refused(function, count=count)
    assert torch.equal(count, torch.zeros(4))


def test_refuses_an_example_that_the_model_does_not_accept() -> None:
    model = small_module(lambda self, x: self.fc(x))
    with pytest.raises(InputError, match=r"Small does not accept an input of shape \(1, 5\)"):
        export_graph(model, (torch.randn(1, 5),), "")
    with pytest.raises(InputError, match=r"expected tensors as example inputs of Small, batch first, found list"):
        export_graph(model, ([torch.randn(1, 4)],), "")
    with pytest.raises(InputError, match=r"found nothing"):
        export_graph(model, (), "")
