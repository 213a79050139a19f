"""docs/recipes.md has every recipe, and the options it names are those of the recipes."""

from __future__ import annotations

import fxquant
from fxquant.cli.recipes import recipe_defaults
from tests.support import documents

PAGE = documents.page("docs/recipes.md")
TABLES = list(documents.tables(PAGE))


def test_every_recipe_is_explained() -> None:
    rows = [row for table in TABLES if table[0][0] == "recipe" for row in table[1:]]
    found = [span for row in rows for span in documents.spans(row[0])]
    assert sorted([*found, "vvtq"]) == sorted(fxquant.recipes())
    assert "`vvtq`" in PAGE


def test_options_are_those_of_their_recipes() -> None:
    placed = next(table for table in TABLES if table[0] == ["option", "of", "what it does"])
    for options, of, _ in placed[1:]:
        recipes = documents.spans(of) or ["fqvit", "itpn", "psaq"]
        for recipe in recipes:
            assert {span.partition("=")[0] for span in documents.spans(options)} <= set(recipe_defaults(recipe))


def test_options_of_every_recipe_are_taken_by_every_recipe() -> None:
    common = next(table for table in TABLES if table[0] == ["option", "what it does"])
    for row in common[1:]:
        (span,) = documents.spans(row[0])
        name = span.partition("=")[0]
        assert all(name in recipe_defaults(recipe) for recipe in fxquant.recipes())


def test_options_of_training_exist() -> None:
    tables = list(documents.tables(documents.page("docs/training.md")))
    options = next(table for table in tables if table[0] == ["option", "what it does"])
    assert {span for row in options[1:] for span in documents.spans(row[0])} <= set(recipe_defaults("vvtq"))
