"""The answers to all questions, as text, as a page and as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fxquant.diagnosis.section import DoctorSection
from fxquant.errors import InputError
from fxquant.files.text_file import write_text
from fxquant.inspection.html import fill


class Diagnosis:
    """
    What `fxquant.doctor` found: print it, show it in a notebook, save it as a page.

    title: of the model. facts: what was looked at, a line each. sections: the questions, in order.
    """

    def __init__(self, title: str, sections: Sequence[DoctorSection], facts: Mapping[str, str] | None = None) -> None:
        self.title, self.sections, self.facts = title, tuple(sections), dict(facts or {})

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that should be seen to, in the order of the sections."""
        return tuple(warning for section in self.sections for warning in section.warnings)

    def section(self, name: str) -> DoctorSection:
        """Return the section `name`; raise `InputError` where there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise InputError(f"a diagnosis has the sections {', '.join(s.name for s in self.sections)}, not {name!r}")

    def __str__(self) -> str:
        head = [f"{self.title}: {self.verdict}"]
        width = max(map(len, self.facts), default=0)
        facts = [f"{name.ljust(width)}  {value}" for name, value in self.facts.items()]
        parts = ["\n".join([*head, *facts]), *(f"{i}. {s.text()}" for i, s in enumerate(self.sections, 1))]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return str(self)

    @property
    def verdict(self) -> str:
        """How many things should be seen to."""
        count = len(self.warnings)
        return f"{count} thing{'s' * (count > 1)} to see to" if count else "nothing to see to"

    def _repr_html_(self) -> str:
        return fill("doctor.html.jinja", diagnosis=self, whole=False)

    def to_html(self) -> str:
        """Return a page that needs no other file, and no network."""
        return fill("doctor.html.jinja", diagnosis=self, whole=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to `path` under a temporary name first; raise `InputError` where it cannot be written."""
        write_text(path, self.to_html())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        sections = {section.name: section.to_dict() for section in self.sections}
        return {"title": self.title, "facts": self.facts, "warnings": list(self.warnings), "sections": sections}
