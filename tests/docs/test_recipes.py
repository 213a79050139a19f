"""docs/recipes.md has every recipe, each has a page, and the options they name are those of the recipes."""

from __future__ import annotations

import re

import pytest

import fxquant
from fxquant.cli.options.recipe_descriptions import DESCRIPTIONS
from fxquant.cli.recipes import SWITCHES, recipe_defaults
from fxquant.measurement.option_values import format_value
from tests.support import documents

PAGE = documents.page("docs/recipes.md")
FACTS = ["source", "calibration", "run time", "take it", "as published"]
SHARED = ("docs/scale-search.md", "docs/weight-fit.md")  # whose options several recipes have


def page_of(recipe: str) -> str:
    return documents.page(f"docs/recipes/{recipe}.md")


def options_of(page: str) -> dict[str, str]:
    """Return what a page says of options and their defaults; several in one row share a default or have one each."""
    found: dict[str, str] = {}
    for header, *rows in documents.tables(page):
        for names, defaults, _ in rows if header[:2] == ["option", "default"] else ():
            given, values = documents.spans(names), documents.spans(defaults)
            found |= dict(zip(given, values * len(given) if len(values) == 1 else values, strict=True))
    return found


def test_every_recipe_is_in_the_index() -> None:
    rows = [row for table in documents.tables(PAGE) if table[0][0] == "recipe" for row in table[1:]]
    found = [re.fullmatch(r"\[`(\w+)`\]\(recipes/(\w+)\.md\)", row[0]) for row in rows]
    assert sorted(link[1] for link in found if link and link[1] == link[2]) == sorted(fxquant.recipes())


@pytest.mark.parametrize("recipe", fxquant.recipes())
def test_every_recipe_has_a_page(recipe: str) -> None:
    page = page_of(recipe)
    assert page.startswith(f"# `{recipe}`\n")
    facts, *_ = documents.tables(page)
    assert [fact for fact, _ in facts[1:]] == FACTS
    assert "\n## What it does\n" in page


@pytest.mark.parametrize("recipe", fxquant.recipes())
def test_every_option_is_on_the_page_with_its_default(recipe: str) -> None:
    own = {name: value for name, value in recipe_defaults(recipe).items() if name not in SWITCHES}
    linked = [page for page in SHARED if f"Those of the [{'fit' if 'fit' in page else 'search'}](" in page_of(recipe)]
    found: dict[str, str] = {}
    for page in (*map(documents.page, linked), page_of(recipe)):
        found |= options_of(page)
    assert found == {name: format_value(value) for name, value in own.items()}


def test_a_recipe_that_is_worse_than_its_paper_says_so_where_it_is_picked() -> None:
    for text in (PAGE, page_of("fqvit"), DESCRIPTIONS["fqvit"]):
        assert "up to 2.2 times" in text


def test_efforts_are_those_of_the_default() -> None:
    efforts = next(table for table in documents.tables(PAGE) if table[0] == ["effort", "what it does"])
    for effort, _ in efforts[1:]:
        fxquant.recipe("default", effort=documents.spans(effort)[0])


def test_options_of_every_recipe_are_taken_by_every_recipe() -> None:
    common = next(table for table in documents.tables(PAGE) if table[0] == ["option", "what it does"])
    for row in common[1:]:
        (span,) = documents.spans(row[0])
        name = span.partition("=")[0]
        assert all(name in recipe_defaults(recipe) for recipe in fxquant.recipes())
