"""What a spec of one operand refuses, and what it answers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fxquant import (
    AdaLogGELU,
    AdaLogSoftmax,
    ConfigError,
    Float8,
    IntegerNorm,
    LearnedStep,
    LearnedWeightStep,
    Log2,
    LogIntSoftmax,
    MinMax,
    PerChannel,
    PerTensor,
    PowerOfTwoFactor,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
    observers,
)
from fxquant.config.kinds import KINDS, OBSERVERS, dequantizers, kind_of, operators, specs_for
from fxquant.config.operands import Role, Value
from fxquant.observers import BinaryWeightStep, ObserverOptions
from fxquant.observers.operand_spec import OperandSpec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "bits must be an integer from 2 to 8, got 1"),
        ({"bits": 9}, "bits must be an integer from 2 to 8, got 9"),
        ({"bits": 4.0}, "bits must be an integer from 2 to 8, got 4.0"),
        ({"bits": True}, "bits must be an integer from 2 to 8, got True"),
        ({"signed": 1}, "TensorSpec.signed must be True or False, got 1"),
        ({"narrow": True}, "narrow leaves out the smallest of the signed codes: use it with signed=True"),
        (
            {"granularity": "per_channel"},
            "granularity must be PerTensor, PerChannel, PerToken, OutlierTokens, PerHead, RowGroups or PerProjection, "
            "got 'per_channel'",
        ),
        (
            {"granularity": PerTensor},
            "granularity must be PerTensor, PerChannel, PerToken, OutlierTokens, PerHead, RowGroups or PerProjection, "
            f"got {PerTensor!r}",
        ),
        ({"observer": "minmax"}, "observer must be observer options such as MinMax(), got 'minmax'"),
    ],
)
def test_impossible_tensor_specs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TensorSpec(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorSpec(observer=PowerOfTwoFactor()), "use it with granularity=PerChannel(-1)"),
        (lambda: TensorSpec(4, signed=True, observer=LearnedWeightStep()), "needs signed, symmetric codes"),
        (lambda: TensorSpec(2, signed=True, symmetric=True, observer=BinaryWeightStep()), "a weight of one bit needs"),
        (lambda: IntegerNorm(granularity=PerChannel(-1)), "IntegerNorm needs one scale, PerTensor"),
    ],
)
def test_an_observer_refuses_codes_that_it_finds_no_range_for(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


BINARY = TensorSpec(2, True, True, observer=BinaryWeightStep(), narrow=True)
ANSWERS = [
    # spec, int8_products, integer_softmax, has_codes, trained, learns_step
    (TensorSpec(), True, False, True, False, False),
    (TensorSpec(observer=LearnedStep()), True, False, True, True, True),
    (BINARY, True, False, True, True, False),
    (IntegerNorm(), True, False, True, False, False),
    (TwinGELU(published=True), True, False, True, False, False),
    (TwinSoftmax(), True, False, True, False, False),
    (TwinSoftmax(published=True), True, False, False, False, False),
    (AdaLogGELU(), True, False, True, False, False),
    (AdaLogSoftmax(published=True), True, False, False, False, False),
    (Log2(), False, False, True, False, False),
    (LogIntSoftmax(), False, True, True, False, False),
    (Float8(), True, False, True, False, False),
]


@pytest.mark.parametrize(("spec", "products", "softmax", "codes", "trained", "step"), ANSWERS, ids=repr)
def test_what_a_spec_answers(
    spec: OperandSpec, products: bool, softmax: bool, codes: bool, trained: bool, step: bool
) -> None:
    assert (spec.int8_products, spec.integer_softmax, spec.has_codes) == (products, softmax, codes)
    assert (spec.trained, spec.learns_step) == (trained, step)
    observer = spec.build("site")
    assert (observer.trained, observer.integer_softmax) == (trained, softmax)


def test_every_kind_of_spec_is_in_the_table() -> None:
    assert {type(spec) for spec, *_ in ANSWERS} == KINDS.keys()
    for spec, *_ in ANSWERS:
        used = kind_of(spec).operators(spec)
        assert set(used) <= operators()
        assert used[-1] in dequantizers()
        assert (len(used) == 2) == spec.has_codes


def test_a_type_derived_from_one_in_the_table_has_its_row() -> None:
    class Wider(TwinGELU):
        """A GELU of the user's own."""

    assert kind_of(Wider()) is KINDS[TwinGELU]
    assert kind_of(IntegerNorm()) is not KINDS[TensorSpec]


def test_every_public_way_to_find_a_range_can_be_saved() -> None:
    public = {v for v in vars(observers).values() if isinstance(v, type) and issubclass(v, ObserverOptions)}
    assert public == set(OBSERVERS)
    assert len(OBSERVERS) == len({options.__name__ for options in OBSERVERS})


@pytest.mark.parametrize("place", [*Role, *Value])
def test_a_tensor_spec_fits_everywhere_and_others_where_they_belong(place: Role | Value) -> None:
    first, *others = specs_for(place)
    assert first is TensorSpec
    special = {Role.GELU, Role.SOFTMAX, Value.GELU, Value.PROBABILITIES, Value.NORM}
    layers = {Role.WEIGHT, Role.ACTIVATION, Role.NORM, Role.GELU, Role.GATED}
    assert bool({*others} - {Float8}) == (place in special)
    assert (Float8 in others) == (place in layers)


def test_the_default_is_one_affine_scale_for_eight_bits() -> None:
    assert TensorSpec() == TensorSpec(8, False, False, PerTensor(), MinMax(), narrow=False)
