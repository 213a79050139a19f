"""What torch.export captures where symbolic tracing stops: bit for bit the model, in the functional dialect, any batch size."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, fx, nn

from fxquant import tracing
from fxquant.errors import InputError, UnsupportedGraphError
from fxquant.exporting import export_graph
from fxquant.meta import module_path
from tests.helpers import assert_reads

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


class Block(nn.Module):
    """A transformer block that reshapes by the size of the image, in Python."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(0.1)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, c).permute(2, 0, 1, 3).unbind(0)
        x = x + F.softmax(q @ k.transpose(-2, -1) * c**-0.5, dim=-1) @ v
        if n % 2 == 1:
            x = x[:, 1:]
        return self.activation(self.drop(x))


class Tiny(nn.Module):
    """Two names for one block, a buffer, a plain tensor, and a token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, 4)
        self.stem = nn.BatchNorm2d(8)
        first, second = Block(), Block()
        second.qkv.weight = first.qkv.weight
        self.blocks = nn.ModuleList([first, second])
        self.again = first
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.constant = torch.rand(8)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stem(self.proj(image)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        for block in (*self.blocks, self.again):
            x = block(x) * self.scale + self.constant
        position = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        return x + position[:, None]


def build(family: str) -> nn.Module:
    name, _, options = FAMILIES[family]
    torch.manual_seed(0)
    return randomized(timm.create_model(name, **options))


def randomized(model: nn.Module) -> nn.Module:
    """Give parameters that start at zero, such as layer scales, values that matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if float(parameter.abs().max()) < 1e-3:
                parameter.normal_(std=0.1)
    return model.eval()


def check(model: nn.Module, gm: fx.GraphModule, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """Check the dialect, and the values at three batch sizes, one of which was not tried at capture."""
    assert {n.op for n in gm.graph.nodes} <= {"placeholder", "get_attr", "call_function", "call_method", "output"}
    assert not any("_.default" in str(n.target) or "_.Tensor" in str(n.target) for n in gm.graph.nodes)
    copied = copy.deepcopy(gm)
    for batch in (1, 3, 5):
        x = torch.randn(batch, *shape, dtype=dtype)
        with torch.no_grad():
            expected = model(x)
            assert expected.isfinite().all()
            assert torch.equal(gm(x), expected)
            assert torch.equal(copied(x), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_captures_a_family_bit_for_bit(family: str) -> None:
    model, size = build(family), FAMILIES[family][1]
    gm = export_graph(model, (torch.randn(1, 3, size, size),), "")
    check(model, gm, (3, size, size))
    left = {str(n.target) for n in gm.graph.nodes if str(n.target).startswith("aten.")}
    assert not left, "these operators have no row in aten_table"


def test_assignments_to_parts_of_a_tensor_become_values() -> None:
    torch.manual_seed(0)
    config = MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=1)
    model = randomized(MultiScaleVit(config, img_size=32, num_classes=5))
    gm = export_graph(model, (torch.randn(2, 3, 32, 32),), "")
    check(model, gm, (3, 32, 32))


def test_bfloat16() -> None:
    model = build("XCiT").bfloat16()
    gm = export_graph(model, (torch.randn(1, 3, 32, 32, dtype=torch.bfloat16),), "")
    check(model, gm, (3, 32, 32), torch.bfloat16)


@pytest.fixture(scope="module")
def tiny() -> tuple[Tiny, fx.GraphModule]:
    torch.manual_seed(0)
    model = Tiny().eval()
    with pytest.raises(UnsupportedGraphError, match=r"Give an example input"):
        tracing.capture(model)
    return model, tracing.capture(model, torch.randn(1, 3, 8, 8))


def test_capture_falls_back_to_export_with_an_example(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    model, gm = tiny
    check(model, gm, (3, 8, 8))
    placeholders = [str(n.target) for n in gm.graph.nodes if n.op == "placeholder"]
    assert placeholders == ["image"], "the optional argument keeps its default value"
    assert isinstance(gm.graph.output_node().args[0], fx.Node)
    assert not any("_guards_fn" in str(n.target) for n in gm.graph.nodes)


def test_the_graph_reads_as_a_traced_one(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    block = [n for n in gm.graph.nodes if module_path(n).startswith("blocks.1") and n.op != "get_attr"]
    spelled = [n.target if isinstance(n.target, str) else n.target.__name__ for n in block]
    assert spelled == [
        *("layer_norm", "linear", "reshape", "permute", "unbind", "getitem", "getitem", "getitem"),
        *("transpose", "matmul", "mul", "softmax", "matmul", "add", "silu"),
    ]
    assert all(type(n.target).__module__ != "torch._ops" for n in gm.graph.nodes)


def test_nodes_know_their_module_and_line(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    linears = [n for n in gm.graph.nodes if n.target is F.linear]
    assert [module_path(n) for n in linears] == ["blocks.0.qkv", "blocks.1.qkv", "again.qkv"]
    assert linears[1].meta["nn_module_stack"]["blocks.1"] == ("blocks.1", Block)
    bias = linears[1].args[2]
    assert isinstance(bias, fx.Node)
    assert (bias.target, module_path(bias)) == ("blocks.1.qkv.bias", "blocks.1.qkv")
    product = next(n for n in gm.graph.nodes if n.target is torch.matmul)
    assert module_path(product) == "blocks.0"
    assert "q @ k.transpose" in str(product.stack_trace)
    assert all(set(n.meta) <= {"nn_module_stack", "stack_trace"} for n in gm.graph.nodes)


def test_parameters_are_those_of_the_model(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    model, gm = tiny
    own, found = dict(model.named_parameters()), dict(gm.named_parameters())
    assert all(found[name] is own[name] for name in found)
    assert found.keys() == own.keys()
    weights = {n.args[1].target for n in gm.graph.nodes if n.target is F.linear}
    assert weights == {"blocks.0.qkv.weight"}, "a shared weight has one name"
    buffers = dict(gm.named_buffers())
    assert buffers["scale"] is model.scale
    assert {"stem.running_mean", "constant"} <= set(buffers)
    assert not gm.training


def test_no_node_names_a_device(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    for node in gm.graph.nodes:
        assert not any(isinstance(a, torch.device) for a in (*node.args, *node.kwargs.values()))


def test_pickles(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(gm))(x), gm(x))


def test_leaves_the_model_as_it_was() -> None:
    model = Tiny().eval()
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    attributes = set(vars(model))
    export_graph(model, (torch.randn(1, 3, 8, 8),), "")
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == which and torch.equal(after[name], value) for name, (which, value) in before.items())
    assert set(vars(model)) == attributes


def forward(function: Callable[..., Any], **tensors: Tensor) -> nn.Module:
    """Return a module with a linear layer ``fc``, and buffers, whose forward is ``function(module, *inputs)``."""
    module = type("Small", (nn.Module,), {"forward": function})()
    module.fc = nn.Linear(4, 4)
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module.eval()


def test_several_inputs_and_results() -> None:
    def function(self: Any, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        x = self.fc(x)
        return {"sum": x + y, "both": (x, [y * scale])}

    gm = export_graph(forward(function), (torch.randn(1, 4), torch.randn(1, 4)), "")
    assert_reads(
        gm,
        """
        (x, y)
        linear = F.linear(x, fc.weight, fc.bias)
        add = linear + y
        mul = y * 2.0
        return {'sum': add, 'both': (linear, [mul])}
        """,
    )


def test_in_place_operators_become_functions() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        x = self.fc(x).relu_()
        x += 1
        x[:, 0] = x[:, 1] * 2
        return x

    model = forward(function)
    gm = export_graph(model, (torch.randn(1, 4),), "")
    x = torch.randn(3, 4)
    assert torch.equal(gm(x), model(x))
    assert any(n.target is torch.select_scatter for n in gm.graph.nodes)


def test_regions_without_gradient_or_autocast_are_inlined() -> None:
    def function(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            y = self.fc(x)
        with torch.enable_grad():
            z = y * 2
        return y, z

    model = forward(function)
    gm = export_graph(model, (torch.randn(1, 4),), "")
    x = torch.randn(3, 4)
    assert all(torch.equal(a, b) for a, b in zip(gm(x), model(x), strict=True))
    assert_reads(gm, "(x)\nlinear = F.linear(x, fc.weight, fc.bias)\nmul = linear * 2\nreturn (linear, mul)")


def test_what_depends_on_the_batch_alone_asks_the_input_for_its_device() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x) + torch.arange(x.shape[0], device=x.device)[:, None]
        return result

    gm = export_graph(forward(function), (torch.randn(1, 4),), "")
    assert_reads(
        gm,
        """
        (x)
        size = x.size(0)
        linear = F.linear(x, fc.weight, fc.bias)
        device = x.device
        arange = torch.arange(size, device=device)
        unsqueeze = arange.unsqueeze(1)
        add = linear + unsqueeze
        return add
        """,
    )


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
        tracing.capture(model, torch.randn(1, 4))
    symbolic, exported, advice = str(raised.value).splitlines()
    assert symbolic.startswith("symbolic tracing stopped in module 1 (Gate), at ")
    assert exported.startswith("torch.export stopped as well, in module 1 (Gate), at ")
    for line in (symbolic, exported):
        assert "test_exporting.py" in line
        assert '"if x.sum() > 0:"' in line
    assert "no branch on the values of a tensor" in advice
    assert capfd.readouterr().err == ""


def refused(function: Callable[..., Any], *inputs: Any, **tensors: Tensor) -> str:
    with pytest.raises(UnsupportedGraphError) as raised:
        export_graph(forward(function, **tensors), inputs or (torch.randn(1, 4),), "the symbolic reason")
    assert str(raised.value).startswith("the symbolic reason\n")
    return str(raised.value)


def test_refuses_a_fixed_batch_size() -> None:
    assert "one batch size only" in refused(lambda self, x: self.fc(x) / int(x.shape[0]))
    assert "one batch size only" in refused(lambda self, x: self.fc(x).reshape(2, 4), torch.randn(2, 4))


def test_refuses_a_graph_that_is_right_for_one_batch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def function(self: Any, x: Tensor) -> Tensor:
        seen.append(0)
        result: Tensor = self.fc(x) * len(seen)
        return result

    assert "another result each time" in refused(function)

    def peek(self: Any, x: Tensor) -> Tensor:
        rows = x.untyped_storage().size() // (4 * x.element_size())
        result: Tensor = self.fc(x) / (2 if type(x) is not Tensor else rows)
        return result

    assert "right only for the batch size it was captured with: with 1 images" in refused(peek)


def test_refuses_random_numbers() -> None:
    assert "another result each time" in refused(lambda self, x: self.fc(x) + torch.rand(4))


def test_refuses_to_change_a_buffer_and_does_not() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        result: Tensor = self.fc(x) + self.count
        return result

    count = torch.zeros(4)
    assert "changes" in refused(function, count=count)
    assert torch.equal(count, torch.zeros(4))


def test_refuses_an_example_that_the_model_does_not_accept() -> None:
    model = forward(lambda self, x: self.fc(x))
    with pytest.raises(InputError, match=r"Small does not accept an input of shape \(1, 5\)"):
        export_graph(model, (torch.randn(1, 5),), "")
    with pytest.raises(InputError, match=r"expected tensors as example inputs of Small, batch first, found list"):
        export_graph(model, ([torch.randn(1, 4)],), "")
    with pytest.raises(InputError, match=r"found nothing"):
        export_graph(model, (), "")
