"""What `make test` runs of a test with many cases; the rest is `long`, and runs in `make test-long`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy


def keep_quick(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the parameters `cases`, all but those of `quick` marked `long`; a tuple is one case of several parameters."""
    cases = list(cases)
    missing = [case for case in quick if case not in cases]
    assert not missing, f"expected quick cases among {cases}, found {missing}"
    return [case if case in quick else _long(case) for case in cases]


def given_examples(
    quick: int, long: int, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Return a decorator: hypothesis draws the `strategies` of a test `quick` times in one tier, `long` times in the other."""

    def decorate(test: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [quick, _long(long)])
        def run(examples: int) -> None:
            drawn = settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
            drawn(given(**strategies)(test))()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


def _long(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long)
