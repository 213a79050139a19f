"""Values of options: what is written is read back, and numbers beside their bounds are refused."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxquant.measurement.option_values import format_value, gibibytes, natural, positive, recipe_option

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    name, found = recipe_option(f"name={format_value(value)}")
    assert (name, type(found)) == ("name", type(value))
    assert found == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("none", None),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("nan", "nan"),
        ("inf", "inf"),
        ("uniform", "uniform"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_values_of_options_are_parsed(text: str, value: object) -> None:
    name, found = recipe_option(f"some_name={text}")
    assert name == "some_name"
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["name", "=1", "a b=1", "1a=1", ""])
def test_what_names_no_option_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected NAME=VALUE"):
        recipe_option(text)


@given(st.integers())
def test_whole_numbers_are_taken_from_their_bound_on(number: int) -> None:
    for parse, least in ((positive, 1), (natural, 0)):
        if number >= least:
            assert parse(str(number)) == number
        else:
            with pytest.raises(ArgumentTypeError, match=f"expected at least {least}, got {number}"):
                parse(str(number))


@pytest.mark.parametrize("parse", [positive, natural])
@pytest.mark.parametrize("text", ["1.0", "", "one"])
def test_other_numbers_are_no_whole_ones(parse: Callable[[str], int], text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse(text)


def test_memory_is_a_positive_number_of_gib() -> None:
    assert gibibytes("0.5") == 2**29
    for text in ("0", "-1", "inf", "nan"):
        with pytest.raises(ArgumentTypeError, match=f"positive number of GiB, got {text}"):
            gibibytes(text)
