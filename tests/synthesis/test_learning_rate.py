"""The learning rate: as recorded, at every iteration."""

from __future__ import annotations

import pytest

from fxquant.synthesis.learning_rate import learning_rate
from tests.support.recorded_synthesis import recorded


@pytest.mark.parametrize("name", ["deit", "swin", "short"])
def test_every_rate_as_recorded(name: str) -> None:
    base, warmup, iterations = recorded()[f"lr/{name}/base_warmup_iters"].double().tolist()
    base = round(base, 6)  # recorded in single precision
    found = [learning_rate(i, base, int(warmup), int(iterations)) for i in range(int(iterations))]
    assert found == pytest.approx(recorded()[f"lr/{name}/value64"].tolist(), rel=1e-12)


def test_without_warmup_it_starts_at_the_top_and_all_warmup_ends_there() -> None:
    assert learning_rate(0, 0.2, 0, 4) == 0.2
    assert [learning_rate(i, 0.2, 4, 4) for i in range(4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])
