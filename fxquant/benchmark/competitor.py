"""What the benchmark needs of an engine: a call to time, its output, and proof of the dtypes it computed in."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxquant.benchmark.subject import Subject

# Attention stays float in most int8 engines and is up to a third of the products.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Evidence:
    """
    What ran, according to the engine's own graph or profile.

    products: the number of matrix products by the dtype that they multiply.
    kernels: the same by kernel and dtype.
    """

    products: Mapping[str, int]
    kernels: Mapping[str, int]

    @classmethod
    def of(cls, found: Iterable[tuple[str, str]]) -> Evidence:
        """Count pairs of kernel and dtype, one pair per matrix product."""
        pairs = list(found)
        return cls(Counter(dtype for _, dtype in pairs), Counter(f"{kernel} {dtype}" for kernel, dtype in pairs))

    @property
    def total(self) -> int:
        """Number of matrix products."""
        return sum(self.products.values())

    def objection(self, precision: str) -> str | None:
        """Say why the run was not in `precision`, such as "int8"; None where at least half of the products were."""
        count = self.products.get(precision, 0)
        if self.total and count >= LEAST_SHARE * self.total:
            return None
        ran = ", ".join(f"{kernel} x{number}" for kernel, number in self.kernels.items()) or "no matrix product found"
        return f"not {precision}: {count} of {self.total} products; it ran {ran}"


@dataclass(frozen=True, eq=False)
class Engine:
    """
    A model that was built for one batch of images.

    run: make one call, without copying results off the device.
    output: return the logits ``(B, N)``, float32 on the CPU.
    evidence: return what ran; it is called after `run`.
    """

    run: Callable[[], Any]
    output: Callable[[], Tensor]
    evidence: Callable[[], Evidence]


@dataclass(frozen=True)
class Competitor:
    """
    One way to run a model.

    precision: the dtype that at least half of its products must have.
    needs: the packages that it imports beyond fxquant's own.
    devices: the types of device that it runs on.
    prepare: makes what it is built of, such as a file, in memory that is not counted as the engine's.
    """

    name: str
    summary: str
    precision: str
    build: Callable[[Subject, Tensor], Engine]
    needs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    prepare: Callable[[Subject], object] | None = None

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]
