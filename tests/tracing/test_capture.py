"""A captured graph is the model's, hooks and hidden functions included, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import swin_transformer

import fxquant
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.meta import Capture, capture_of
from fxquant.tracing.capture import capture
from tests.support.export import check_capture, small_module


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.norm(self.conv(x)).mean((2, 3)))
        return y


HOOKS: dict[str, Callable[[Net], Any]] = {
    "input of the model": lambda m: m.register_forward_pre_hook(lambda _, args: (args[0] / 255 - 0.5,)),
    "output of the model": lambda m: m.register_forward_hook(lambda _, args, out: F.normalize(out, dim=-1)),
    "batch norm": lambda m: m.norm.register_forward_hook(lambda _, args, out: out * 3 + 1),
    "keywords": lambda m: m.fc.register_forward_pre_hook(lambda _, args, kw: ((args[0] * 2,), kw), with_kwargs=True),
}


@pytest.mark.parametrize("place", HOOKS)
def test_hooks_take_part(place: str) -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    bare = model(x)
    HOOKS[place](model)
    gm = fxquant.trace(model)
    check_capture(model, gm, (3, 8, 8))
    assert not torch.allclose(gm(x), bare), "the hook changes the result"
    assert capture_of(gm) == Capture("symbolic", True, 0.0)


@torch.fx.wrap
def add_rows(x: Tensor, y: Tensor) -> None:
    x[:, 1:] += y[:, 1:]


@torch.fx.wrap
def project(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if x.shape[-1] > 3 else x


def test_a_wrapped_function_whose_result_nobody_reads() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        add_rows(y, x * 3)
        return y

    model = small_module(function)
    gm = capture(model, torch.randn(2, 4))
    check_capture(model, gm, (4,))


def test_an_operator_that_writes_and_whose_result_nobody_reads_is_refused_by_name() -> None:
    @torch.library.custom_op("fxquant_tests::add_ones", mutates_args=("x",))
    def add_ones(x: Tensor) -> None:
        x.add_(1)

    def function(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        add_ones(y)
        return y

    with pytest.raises(UnsupportedGraphError, match="add_ones"):
        capture(small_module(function), torch.randn(2, 4))


def test_products_in_a_wrapped_function_are_seen() -> None:
    model = small_module(lambda self, x: project(self.fc(x), self.w), w=torch.randn(6, 4))
    gm = capture(model, torch.randn(2, 4))
    assert [r.product for r in fxquant.report(gm)] == ["linear", "linear"]
    check_capture(model, gm, (4,))


def test_torchvision_attention_is_opened_and_named() -> None:
    torch.manual_seed(0)
    model = swin_transformer.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=5).eval()
    gm = fxquant.quantize(model, [torch.randn(2, 3, 52, 36)], recipe="minmax")
    report = fxquant.report(gm)
    names = [r.name for r in report]
    assert "features.1.0.attn.qkv" in names
    assert "features.1.0.attn.proj" in names
    assert report.coverage > 0.85
    with pytest.raises(fxquant.InputError, match=r"expected shape \(\*, 3, 52, 36\)"):
        gm(torch.randn(2, 3, 64, 64))


def test_features_collected_by_hooks() -> None:
    model = timm.create_model("pit_ti_224", features_only=True).eval()
    gm = fxquant.trace(model)
    x = torch.randn(1, 3, 224, 224)
    for found, expected in zip(gm(x), model(x), strict=True):
        assert torch.equal(found, expected)


def test_a_graph_that_lost_its_input_is_refused() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.found: dict[Any, Tensor] = {}
            self.fc.register_forward_hook(lambda _, args, out: self.found.update({out.device: out}))

        def forward(self, x: Tensor) -> list[Tensor]:
            self.fc(x)
            found = self.found.pop(x.device, None)
            return [] if found is None else [found]

    model, x = Forgetful().eval(), torch.randn(2, 4)
    with pytest.raises(UnsupportedGraphError, match="does not depend on the input"):
        fxquant.trace(model)
    assert torch.equal(fxquant.trace(model, x)(x)[0], model.fc(x))


def test_without_any_example_a_model_that_cannot_be_followed_is_refused() -> None:
    model = small_module(lambda self, x: self.fc(x) if x.shape[0] > 0 else x)
    with pytest.raises(UnsupportedGraphError, match="Give an example input"):
        capture(model)
    gm = capture(model, torch.randn(2, 4))
    assert capture_of(gm) == Capture("export", True, 0.0)
    with pytest.raises(fxquant.InputError, match=r"expected shape \(\*, 4\)"):
        gm(torch.randn(2, 5))


def test_a_graph_that_was_not_compared_says_so() -> None:
    gm = capture(small_module(lambda self, x: self.fc(x)))
    assert capture_of(gm) == Capture("symbolic", False)
    assert "not verified" in str(fxquant.report(gm))
    assert "not verified" not in str(
        fxquant.report(capture(small_module(lambda self, x: self.fc(x)), torch.ones(1, 4)))
    )


def test_what_differs_is_refused_and_the_first_module_named() -> None:
    class Peeking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (2 if type(x) is not Tensor else 3)

    model = nn.Sequential(nn.Linear(4, 4), Peeking(), nn.Linear(4, 4)).eval()
    with pytest.raises(
        UnsupportedGraphError, match=r"outputs differ by .* no node of the graph gives is 1 \(Peeking\)"
    ):
        capture(model, torch.randn(2, 4))


def test_a_forward_that_counts_its_calls_is_refused() -> None:
    seen: list[int] = []

    def function(self: Any, x: Tensor) -> Tensor:
        seen.append(0)
        result: Tensor = self.fc(x) * len(seen)
        return result

    with pytest.raises(UnsupportedGraphError, match="another result each time"):
        capture(small_module(function), torch.randn(1, 4))


def test_random_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"another result each time|draws random numbers"):
        capture(small_module(lambda self, x: self.fc(x) + torch.rand_like(x)), torch.randn(1, 4))


def test_a_batch_that_the_model_does_not_take_is_left_out() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x).reshape(2, 4)
        return result

    gm = capture(small_module(function), torch.randn(2, 4))
    assert capture_of(gm) == Capture("symbolic", True, 0.0)


def test_multiply_accumulates_that_the_graph_lacks_lower_the_coverage() -> None:
    model = small_module(lambda self, x: (self.fc(x), F.linear(x, self.w))[0], w=torch.randn(12, 4))
    gm = capture(model, torch.randn(2, 4))
    assert capture_of(gm) == Capture("symbolic", True, 0.75), "nothing reads the second product"
    assert "+75.0% multiply-accumulates" in str(fxquant.report(gm))


@pytest.mark.parametrize("name", ["graph", "meta", "code", "class", "graph_module", "1-class", "ä ö", "forward_"])
def test_names_of_modules_that_a_graph_has_itself(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(4, 4)})
            self.add_module(name, nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self._modules[name](self.parts[name](x))  # type: ignore[misc]
            return y

    torch.manual_seed(0)
    model = Named().eval()
    gm = fxquant.trace(model, torch.randn(2, 4))
    check_capture(model, gm, (4,))
    assert [r.name for r in fxquant.report(gm)] == [f"parts.{name}", name]


def test_graph_modules_of_other_libraries() -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    extractor = create_feature_extractor(model, {"norm": "a", "fc": "b"}).eval()
    gm = fxquant.trace(extractor)
    assert torch.equal(gm(x)["a"], extractor(x)["a"])
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    assert torch.equal(fxquant.trace(exported, x)(x), model(x))
