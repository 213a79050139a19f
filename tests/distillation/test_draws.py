"""Draws depend on their key alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxquant.distillation.draws import random_of


def test_the_same_key_draws_the_same_and_another_draws_others() -> None:
    drawn = {key: tuple(random_of(*key).randint(0, 1000, 4)) for key in [(0, 1, 2), (0, 12), ("0", 1, 2), (1, 0, 2)]}
    assert len(set(drawn.values())) == 4
    number: Any = np.int64(1)
    assert drawn[(0, 1, 2)] == tuple(random_of(0, number, 2).randint(0, 1000, 4))
    # What was once published as labels or logs has to stay what it was.
    assert random_of("rows", 0, 0, 0).permutation(8).tolist() == [7, 2, 0, 5, 1, 4, 3, 6]
