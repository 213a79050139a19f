"""Image files that are skipped because they cannot be read: which, why, and when there are too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fxquant.errors import InputError

LIMIT = 0.01
"""The part of all images that may be unreadable, unless another is given."""

_SHOWN = 5


@dataclass(eq=False)
class Unreadable:
    """
    The files among `held` images that could not be read.

    reasons: why, by file. limit: the part that may be unreadable; 0 allows none. found: of how many images those held were
    drawn.

    More than `limit` are an error, as what is measured would no longer be what the folder holds. Out of a small draw one may
    be lost where it is no more than `limit` of the folder.
    """

    held: int
    reasons: dict[Path, str] = field(default_factory=dict)
    limit: float = LIMIT
    found: int = 0

    @property
    def allowed(self) -> int:
        """How many images may be lost."""
        return max(_part(self.limit, self.held), min(1, _part(self.limit, self.found)))

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, reasons: Mapping[Path, str]) -> None:
        """Note more files; raise `InputError` with the first one's reason where there are now too many."""
        self.reasons.update(reasons)
        if len(self) > self.allowed:
            first = min(self.reasons)
            raise InputError(
                f"{len(self)} of {self.held} images cannot be read, more than {100 * self.limit:g} %. The first: "
                f"{self.reasons[first]}"
            )

    def as_json(self) -> dict[str, str]:
        """Return the reasons by file."""
        return {str(file): reason for file, reason in sorted(self.reasons.items())}

    def describe(self, root: Path) -> str:
        """Return one line that counts the files and names the first of them, relative to `root`."""
        names = [file.relative_to(root).as_posix() for file in sorted(self.reasons)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        listed = ", ".join(names[:_SHOWN]) + more
        return f"skipped {len(names)} of {self.held} images in {root} that cannot be read: {listed}"


def _part(limit: float, images: int) -> int:
    return int(limit * images + 1e-9)
