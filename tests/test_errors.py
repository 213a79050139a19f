"""Every refusal, from the outside: which error, and that its message names what is to be mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    FxquantError,
    InputError,
    LayerSpec,
    PassError,
    PerChannel,
    QuantConfig,
    TensorSpec,
    UnsupportedGraphError,
)
from tests.support.check_pass import module_of
from tests.support.models import images, small_vit

MINMAX = fxquant.recipe("minmax")
VIT = small_vit()


def calibrate(*batches: Any, model: nn.Module = VIT) -> fx.GraphModule:
    return fxquant.calibrate(fxquant.prepare(model, MINMAX), batches, progress=False)


@pytest.mark.parametrize(
    "kind", [CalibrationError, CheckpointError, ConfigError, InputError, PassError, UnsupportedGraphError]
)
def test_every_error_is_ours(kind: type[Exception]) -> None:
    assert issubclass(kind, FxquantError)


@pytest.mark.parametrize("target", ["int8", "fake"])
def test_a_model_that_was_never_calibrated(target: Any) -> None:
    with pytest.raises(
        CalibrationError, match=r"node 'patch_embed.proj.input' was never calibrated.*fxquant.calibrate"
    ):
        fxquant.convert(fxquant.prepare(VIT, MINMAX), target)


def test_a_float_model_that_was_never_calibrated() -> None:
    with pytest.raises(CalibrationError, match="the model was never calibrated"):
        fxquant.convert(fxquant.prepare(VIT, QuantConfig(None)))


def with_value(value: float) -> Tensor:
    x = images()
    x[1, 2, 3, 4] = value
    return x


BAD_BATCHES: dict[str, tuple[Any, str]] = {
    "NaN": (with_value(float("nan")), "input 'x', calibration batch 1: expected finite pixels, found NaN"),
    "infinity": (with_value(float("inf")), "input 'x', calibration batch 1: expected finite pixels, found infinite"),
    "minus infinity": (with_value(float("-inf")), "batch 1: expected finite pixels, found infinite"),
    "empty": (torch.zeros(0, 3, 32, 32), "batch 1: expected images, found an empty batch of shape (0, 3, 32, 32)"),
    "another size": (torch.randn(4, 3, 24, 24), "batch 1: expected shape (B, 3, 32, 32) as in the first batch"),
    "no argument": (
        {"image": images()},
        "calibration batch 1: 'image' is no argument of VisionTransformer, which takes x:",
    ),
    "no pair": (
        (),
        "calibration batch 1: expected a tensor of images, an (images, targets) pair or a mapping by the names",
    ),
    "an array": (images().numpy(), "calibration batch 1: expected tensors, found a numpy array: give torch.from_numpy"),
    "loose images": (
        list(images()),
        "calibration batch 1: expected a batch of images (B, C, H, W), found a list of 4 images",
    ),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_bad_batch_names_the_input_and_the_batch(name: str) -> None:
    batch, message = BAD_BATCHES[name]
    with pytest.raises(CalibrationError, match=re.escape(message)):
        calibrate(images(), batch)


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("recipe", ["minmax", "ptq4vit"])
def test_batches_of_one_value_alone(value: float, recipe: str) -> None:
    prepared = fxquant.prepare(VIT, fxquant.recipe(recipe))
    constant = torch.full((4, 3, 32, 32), value)
    with pytest.raises(
        CalibrationError, match=f"'x', all calibration batches: expected images, found the constant {value:g}"
    ):
        fxquant.calibrate(prepared, [constant, constant], progress=False)
    with pytest.raises(CalibrationError, match="found the constant"):
        fxquant.convert(prepared)


@pytest.mark.parametrize("batches", [images(), {"x": images()}])
def test_a_batch_in_place_of_batches(batches: Any) -> None:
    message = r"expected an iterable of calibration batches, found a .*\[batch\]"
    with pytest.raises(CalibrationError, match=message):
        fxquant.quantize(VIT, batches)
    with pytest.raises(CalibrationError, match=message):
        fxquant.calibrate(fxquant.prepare(VIT, MINMAX), batches)


@pytest.mark.parametrize("batches", [[], iter(())])
def test_no_batches_at_all(batches: Any) -> None:
    with pytest.raises(CalibrationError, match="expected at least one calibration batch, found none"):
        fxquant.calibrate(fxquant.prepare(VIT, MINMAX), batches, progress=False)
    with pytest.raises(CalibrationError, match="expected at least one calibration batch, found none"):
        fxquant.quantize(VIT, batches)


def test_a_first_batch_of_the_wrong_shape_names_it() -> None:
    for shape in ((4, 1, 32, 32), (4, 3, 16, 16), (4, 3)):
        with pytest.raises(CalibrationError, match=rf"batch 0: the model does not accept .* {re.escape(str(shape))}"):
            calibrate(torch.randn(shape))


def test_values_that_overflow_inside_the_model_name_the_node() -> None:
    first = nn.Linear(4, 4)
    model = nn.Sequential(first, nn.Linear(4, 4)).eval()
    with torch.no_grad():
        first.weight.fill_(3e38)
    with pytest.raises(CalibrationError, match=r"node '1.input', calibration batch 0: expected finite values"):
        fxquant.calibrate(fxquant.prepare(model, MINMAX), [torch.rand(8, 4) + 1], progress=False)


def test_a_weight_that_is_not_finite_names_it() -> None:
    model = nn.Linear(4, 4).eval()
    with torch.no_grad():
        model.weight[1, 2] = float("nan")
    with pytest.raises(CalibrationError, match=r"node 'linear.weight'.*found NaN"):
        fxquant.prepare(model, MINMAX)


@pytest.mark.parametrize("target", ["int8", "fake"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 24, 24), (3, 32, 32)])
def test_a_converted_model_names_the_shape_it_expects(target: Any, shape: tuple[int, ...]) -> None:
    converted = fxquant.convert(calibrate(images()), target)
    with pytest.raises(InputError, match=r"input 'x': expected shape \(\*, 3, 32, 32\)"):
        converted(torch.randn(shape))


def test_inputs_beside_the_images_may_be_constant() -> None:
    model = module_of(lambda self, x, mask: F.linear(x, self.w) + mask, w=torch.randn(4, 4))
    prepared = fxquant.prepare(model, MINMAX)
    prepared(torch.randn(2, 4), torch.zeros(2, 4))
    with pytest.raises(CalibrationError, match=r"input 'mask', calibration batch 1: expected finite"):
        prepared(torch.randn(2, 4), torch.full((2, 4), float("nan")))


def test_an_example_of_the_wrong_shape() -> None:
    with pytest.raises(InputError, match=r"does not accept an input of shape \(2, 3, 24, 24\)"):
        fxquant.trace(VIT, torch.randn(2, 3, 24, 24))


def test_an_unknown_recipe_lists_those_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'magic'.*minmax.*percentile"):
        fxquant.recipe("magic")
    with pytest.raises(ConfigError, match="unknown recipe 'magic'"):
        fxquant.quantize(VIT, [images()], recipe="magic")


def test_a_model_in_training_mode() -> None:
    model = small_vit().train()
    for verb in (fxquant.trace, fxquant.prepare, lambda m: fxquant.quantize(m, [images()])):
        with pytest.raises(InputError, match=r"evaluation mode.*call model.eval\(\) first"):
            verb(model)


def test_an_unsupported_dtype() -> None:
    for verb in (fxquant.trace, fxquant.prepare):
        with pytest.raises(InputError, match=r"expected float32, bfloat16 or float16 weights, found torch.float64"):
            verb(small_vit().double())


FLOAT = fxquant.trace(VIT)
PREPARED = calibrate(images())
CONVERTED = fxquant.convert(PREPARED)
WRONG_STAGES: list[tuple[Callable[[Any], Any], nn.Module, str]] = [
    (fxquant.trace, PREPARED, "trace expected a model, found a graph at stage prepared"),
    (fxquant.trace, CONVERTED, "trace expected a model, found a graph at stage lowered"),
    (
        fxquant.prepare,
        PREPARED,
        "prepare expected a graph from fxquant.trace, or a module, found a graph at stage prepared",
    ),
    (fxquant.prepare, CONVERTED, "prepare expected .* found a graph at stage lowered"),
    (
        lambda gm: fxquant.calibrate(gm, [images()]),
        FLOAT,
        "calibrate expected a graph from fxquant.prepare, .* stage float",
    ),
    (lambda gm: fxquant.calibrate(gm, [images()]), CONVERTED, "calibrate expected .* stage lowered"),
    (
        lambda gm: fxquant.calibrate(gm, [images()]),
        VIT,
        "calibrate expected .* a VisionTransformer that fxquant did not make",
    ),
    (fxquant.convert, FLOAT, "convert expected a graph from fxquant.prepare that was calibrated, .* stage float"),
    (fxquant.convert, CONVERTED, "convert expected .* stage lowered"),
    (fxquant.convert, fx.symbolic_trace(nn.Linear(2, 2)), "convert expected .* a Linear that fxquant did not make"),
]


@pytest.mark.parametrize(("verb", "given", "message"), WRONG_STAGES)
def test_a_verb_on_the_wrong_stage(verb: Callable[[Any], Any], given: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedGraphError, match=message):
        verb(given)


SYMMETRIC = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(0))
AFFINE = TensorSpec(granularity=PerChannel(0))


def converted(module: nn.Module, layer: LayerSpec, x: Tensor) -> list[fx.GraphModule]:
    prepared = fxquant.prepare(module, QuantConfig(layer))
    prepared(x)
    return [fxquant.convert(prepared, "fake"), fxquant.convert(prepared, "int8")]


@pytest.mark.parametrize("weight", [SYMMETRIC, AFFINE])
@pytest.mark.parametrize("bias", [False, True])
def test_a_weight_row_of_zeros_gives_exactly_its_bias(weight: TensorSpec, bias: bool) -> None:
    module, x = nn.Linear(6, 4, bias).eval(), torch.randn(8, 6)
    with torch.no_grad():
        module.weight[2] = 0
    expected = module.bias[2].expand(8) if bias else torch.zeros(8)
    for gm in converted(module, LayerSpec(weight), x):
        assert torch.equal(gm(x)[:, 2], expected)


@pytest.mark.parametrize(
    "activation", [TensorSpec(granularity=PerChannel(-1)), TensorSpec(signed=True, symmetric=True)]
)
def test_a_channel_that_is_always_zero_adds_exactly_nothing(activation: TensorSpec) -> None:
    module, x = nn.Linear(3, 4, bias=False).eval(), torch.randn(8, 3)
    x[:, :] = 0
    x[:, 1] = torch.randn(8)
    with torch.no_grad():
        module.weight[:, 1] = 0
        module.weight[:, 1][0] = 1
    for gm in converted(module, LayerSpec(activation=activation), x):
        y = gm(x)
        assert not y[:, 1:].any()
        assert y[:, 0].any()


@pytest.mark.parametrize("value", [0.5, -3.0])
def test_one_constant_channel_among_others_is_kept(value: float) -> None:
    module, x = nn.Linear(3, 4).eval(), torch.randn(8, 3)
    x[:, 1] = value
    for gm in converted(module, LayerSpec(activation=TensorSpec(granularity=PerChannel(-1))), x):
        assert (gm(x) - module(x)).abs().max() < 0.05


@pytest.mark.parametrize("weight", [SYMMETRIC, AFFINE])
def test_a_weight_of_one_column_is_kept(weight: TensorSpec) -> None:
    module, x = nn.Linear(1, 4).eval(), torch.randn(8, 1)
    for gm in converted(module, LayerSpec(weight), x):
        assert (gm(x) - module(x)).abs().max() < 0.05
