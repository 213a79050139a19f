"""What a batch means, for models that take one input, several, optional ones or any number of them."""

from __future__ import annotations

from collections import UserDict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fxquant
from fxquant.errors import InputError
from fxquant.graph.inputs import Arguments, Bound, batch_size, has_batch, moved
from tests.support.check_pass import module_of
from tests.support.models import Conditioned, conditions, images, small_vit
from tests.support.tiers import keep_quick

IMAGES, OTHER, LABELS = torch.randn(4, 3, 8, 8), torch.randn(4, 6), torch.arange(4)


def _one(self: Any, x: Tensor) -> Any: ...
def _two(self: Any, image: Tensor, metadata: Tensor) -> Any: ...
def _optional(self: Any, pixel_values: Any = None, mask: Any = None, labels: Any = None, **kwargs: Any) -> Any: ...
def _target(self: Any, image: Tensor, target: Tensor) -> Any: ...
def _named(self: Any, *, x: Tensor) -> Any: ...
def _any(self: Any, *inputs: Tensor) -> Any: ...
def _scaled(self: Any, x: Tensor, scale: float = 1.0) -> Any: ...


def arguments(function: Any) -> Arguments:
    return Arguments.of(module_of(function))


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found is wanted


@pytest.mark.parametrize(
    ("function", "batch", "inputs", "targets"),
    [
        (_one, IMAGES, {"x": IMAGES}, None),
        (_one, (IMAGES, LABELS), {"x": IMAGES}, LABELS),
        (_one, [IMAGES], {"x": IMAGES}, None),
        (_one, (IMAGES, LABELS, ["a.png"] * 4), {"x": IMAGES}, LABELS),
        (_one, ((IMAGES,), LABELS), {"x": IMAGES}, LABELS),
        (_one, ({"x": IMAGES}, LABELS), {"x": IMAGES}, LABELS),
        (_one, {"x": IMAGES, "label": LABELS, "path": ["a.png"] * 4, "note": None}, {"x": IMAGES}, LABELS),
        (_one, UserDict({"x": IMAGES}), {"x": IMAGES}, None),
        (_two, (IMAGES, OTHER), {"image": IMAGES, "metadata": OTHER}, None),
        (_two, [IMAGES, OTHER, LABELS], {"image": IMAGES, "metadata": OTHER}, LABELS),
        (_two, ((IMAGES, OTHER), LABELS), {"image": IMAGES, "metadata": OTHER}, LABELS),
        (_two, {"metadata": OTHER, "image": IMAGES}, {"image": IMAGES, "metadata": OTHER}, None),
        (_optional, IMAGES, {"pixel_values": IMAGES}, None),
        (_optional, (IMAGES, LABELS), {"pixel_values": IMAGES}, LABELS),
        (_optional, {"pixel_values": IMAGES, "labels": LABELS}, {"pixel_values": IMAGES}, LABELS),
        (_optional, {"mask": OTHER, "pixel_values": IMAGES}, {"pixel_values": IMAGES, "mask": OTHER}, None),
        (_target, {"image": IMAGES, "target": OTHER}, {"image": IMAGES, "target": OTHER}, None),
        (_named, (IMAGES, LABELS), {"x": IMAGES}, LABELS),
        (_any, IMAGES, {"inputs": (IMAGES,)}, None),
        (_scaled, {"x": IMAGES, "scale": 2.0}, {"x": IMAGES, "scale": 2.0}, None),
    ],
)
def test_a_batch_gives_inputs_and_targets(function: Any, batch: Any, inputs: Bound, targets: Any) -> None:
    found, beside = arguments(function).split(batch)
    assert same(found, inputs)
    assert beside is targets


@pytest.mark.parametrize(
    ("function", "batch", "message"),
    [
        (
            _two,
            IMAGES,
            r"do not fit the arguments \(image, metadata\) of Small: missing a required argument: 'metadata'",
        ),
        (_two, (IMAGES,), "missing a required argument: 'metadata'"),
        (_two, {"image": IMAGES}, "missing a required argument: 'metadata'"),
        (_one, {"image": IMAGES, "label": LABELS}, "'image' is no argument of Small, which takes x"),
        (_one, {"x": IMAGES, "depth": OTHER}, "'depth' is no argument of Small"),
        (_scaled, {"x": IMAGES, "scales": 2.0}, "'scales' is no argument of Small, which takes x, scale"),
        (_one, {"label": LABELS}, "missing a required argument: 'x'"),
        (_optional, {"labels": LABELS}, "found no tensor for any of them"),
        (_one, IMAGES.numpy(), r"found a numpy array: give torch.from_numpy\(array\)"),
        (_one, (IMAGES.numpy(), LABELS), "found a numpy array"),
        (_one, {"x": np.zeros(3)}, "found a numpy array"),
        (_one, list(IMAGES), r"found a list of 4 images of shape \(3, 8, 8\): give torch.stack"),
        (_one, (list(IMAGES), LABELS), "give torch.stack"),
        (_one, (), "found tuple"),
        (_one, ("a.png", LABELS), "found str"),
        (_one, 3, r"expected a tensor of images, an \(images, targets\) pair or a mapping by .* \(x\), found int"),
        (_two, None, "a tuple of the 2 inputs or a mapping"),
    ],
)
def test_what_is_no_batch_is_refused(function: Any, batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arguments(function).bind(batch)


def test_an_example_may_be_the_arguments_of_a_call() -> None:
    assert arguments(_scaled).bind_example((IMAGES, 2.0)) == {"x": IMAGES, "scale": 2.0}
    assert arguments(_one).bind_example([IMAGES, LABELS]) == {"x": IMAGES}  # a batch, which no call takes
    assert arguments(_optional).bind_example(({"pixel_values": IMAGES}, LABELS)) == {"pixel_values": IMAGES}
    assert same(arguments(_any).bind_example((IMAGES, OTHER)), {"inputs": (IMAGES, OTHER)})
    with pytest.raises(InputError, match="too many positional arguments"):
        arguments(_one).bind_example((IMAGES, None))


def test_arguments_become_a_call() -> None:
    two = arguments(_optional)
    args, kwargs = two.call({"mask": OTHER})
    assert args == ()
    assert same(kwargs, {"mask": OTHER})
    assert same(two.positional({"mask": OTHER}), (None, OTHER))
    assert same(two.inputs({"mask": OTHER, "pixel_values": IMAGES, "labels": 3}), (IMAGES, OTHER))
    with pytest.raises(InputError, match="Small takes x by keyword only"):
        arguments(_named).positional({"x": IMAGES})


def test_a_graph_takes_its_tensors_and_passes_over_what_is_constant_in_it() -> None:
    def forward(self: Any, x: Tensor, scale: float, y: Tensor) -> Tensor:
        return x * scale + y

    gm = fxquant.trace(module_of(forward), (OTHER, 2.0, OTHER))
    own = Arguments.of(gm)
    for batch in (
        (OTHER, OTHER),
        (OTHER, 2.0, OTHER),
        (OTHER, None, OTHER, LABELS),
        {"y": OTHER, "x": OTHER, "scale": 2.0},
    ):
        assert same(own.tensors(batch), (OTHER, OTHER))
    with pytest.raises(InputError, match="input 'y': expected a tensor, found NoneType"):
        own.tensors({"x": OTHER, "y": None})
    with pytest.raises(InputError, match="missing a required argument: 'y'"):
        own.tensors((OTHER, 2.0))


def test_inputs_that_are_given_by_keyword_only_are_refused() -> None:
    def forward(self: Any, x: Tensor, *, y: Tensor) -> Tensor:
        return x + y

    with pytest.raises(InputError, match="Small takes y by keyword only"):
        fxquant.trace(module_of(forward), {"x": OTHER, "y": OTHER})


def test_what_floats_is_cast_and_everything_is_moved() -> None:
    found = moved((OTHER, LABELS, OTHER > 0), "meta", torch.bfloat16)
    assert [t.dtype for t in found] == [torch.bfloat16, torch.int64, torch.bool]
    assert all(t.is_meta for t in found)


def test_inputs_of_a_batch_have_a_row_for_each_image() -> None:
    inputs = (torch.tensor(3), IMAGES, torch.zeros(1, 6), OTHER)
    assert batch_size(inputs) == 4
    assert [has_batch(t, inputs) for t in inputs] == [False, True, False, True]


@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("recipe", ["minmax", "omse", "ptq4vit", "noisyquant", "psaq"])
def test_several_inputs_calibrate_every_recipe(recipe: str, boolean: bool) -> None:
    torch.manual_seed(0)
    model, batches = Conditioned(boolean).eval(), [conditions(boolean, seed=seed) for seed in range(3)]
    named = dict(zip(("tokens", "index", "mask"), batches[1], strict=True))
    gm = fxquant.quantize(model, [batches[0], named, (batches[2], LABELS)], recipe)
    x = conditions(boolean, batch=3, seed=5)
    wanted = model(*x)
    assert (gm(*x) - wanted).norm() < 0.1 * wanted.norm()
    assert torch.equal(gm(x[0], mask=x[2], index=x[1]), gm(*x))


def test_a_mask_that_is_quantised_has_to_be_finite() -> None:
    def forward(self: Any, x: Tensor, mask: Tensor) -> Tensor:
        return torch.nn.functional.linear(x + mask, self.weight)

    x, mask = torch.randn(4, 6), torch.zeros(4, 6)
    mask[0, 0] = float("-inf")
    with pytest.raises(fxquant.CalibrationError, match=r"input 'mask', .* expected finite pixels, found infinite"):
        fxquant.quantize(module_of(forward, weight=torch.randn(5, 6)), [(x, mask)])


RECIPES = ("minmax", "ema", "omse", "ptq4vit", "noisyquant", "fqvit", "psaq")
QUICK = zip(RECIPES, (0, 1, 2, 0, 1, 2, 0), strict=True)  # each recipe, each place


@pytest.mark.parametrize(("recipe", "place"), keep_quick(product(RECIPES, range(3)), *QUICK))
def test_a_black_batch_among_others_is_no_harm(recipe: str, place: int) -> None:
    model, good = small_vit(depth=1), [images(), images(seed=1)]
    plain = fxquant.quantize(model, good, recipe)(images())
    found = fxquant.quantize(model, [*good[:place], torch.zeros(1, 3, 32, 32), *good[place:]], recipe)(images())
    error, before = ((y - model(images())).norm() for y in (found, plain))
    assert error < 1.5 * before
