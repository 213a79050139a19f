"""What came of the tries of one case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.harness.results import Row


@dataclass(eq=False)
class Outcomes:
    """How often each thing happened. good: what should. bad: what should not."""

    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)

    def count(self, fine: bool, what: str, otherwise: str) -> None:
        """Count one try: `what` where it is fine, else `otherwise`."""
        if fine:
            self.good[what] += 1
        else:
            self.bad[otherwise] += 1

    def as_row(self) -> Row:
        """Return both by name."""
        return {"good": dict(sorted(self.good.items())), "bad": dict(sorted(self.bad.items()))}
