"""Few images, and one thread, as training repeats with equally many threads alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench.standins.glyphs import Glyphs, load_part


@pytest.fixture(scope="session")
def few() -> Glyphs:
    return load_part("calibration", 96)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
