"""The help of every command looks alike, and its examples can be typed."""

from __future__ import annotations

import argparse
import shlex
from functools import cache

import pytest

from fxquant.cli.main import COMMANDS, build_parser, parse

# The groups of options, in the order in which a command has them.
GROUPS = (
    *("positional arguments", "options", "model", "preprocessing", "images", "quantisation", "training", "labels"),
    *("synthesis", "execution", "measurement", "output"),
)
METAVARS = {
    *("MODEL", "FILE", "DIR", "IMAGE", "LABELS", "SHELL"),  # which are typed as they are
    *("N", "X", "LOW", "HIGH"),  # whole and other numbers
    *("NAME", "NAME=VALUE", "KIND", "SOURCE", "JSON"),
}
WITHOUT_FIGURES = ("completion",)


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    (commands,) = (a for a in build_parser([command])._actions if isinstance(a, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_groups_come_in_one_order(command: str) -> None:
    titles = [group.title for group in parser_of(command)._action_groups if group._group_actions]
    assert titles == [title for title in GROUPS if title in titles]


@pytest.mark.parametrize("command", COMMANDS)
def test_words_are_written_alike(command: str) -> None:
    for action in parser_of(command)._actions:
        text = action.help or ""
        assert text, action.dest
        assert not text.endswith("."), text
        assert not (text[0].isupper() and text[1].islower()), text
        assert "%(default)" not in text, "the formatter says it"
        if action.nargs != 0 and action.metavar is not None:
            named = {action.metavar} if isinstance(action.metavar, str) else set(action.metavar)
            assert named <= METAVARS, (action.dest, named)
        elif action.nargs != 0:
            assert action.choices, action.dest


@pytest.mark.parametrize("command", COMMANDS)
def test_figures_can_be_had_as_json_and_errors_with_their_place(command: str) -> None:
    flags = {flag for action in parser_of(command)._actions for flag in action.option_strings}
    assert "--debug" in flags
    assert ("--json" in flags) == (command not in WITHOUT_FIGURES)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_at_the_end_can_be_typed(command: str) -> None:
    examples = parser_of(command).format_help().partition("\nexamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[:2] == ["fxquant", command]
        parse(words[1:])


def test_defaults_are_said_in_one_way() -> None:
    told = " ".join(parser_of("eval").format_help().split())
    for said in (
        "--seed N seed of every random choice (default: 0)",
        "--data DIR the image folder (required)",
        "(default: real:32)",
    ):
        assert said in told
    assert "--batch N [N ...] batch sizes (default: 1 8)" in " ".join(parser_of("bench").format_help().split())
    assert "usage: fxquant eval MODEL --data DIR [OPTION...]" in told


def test_lines_fit_and_names_stay_whole() -> None:
    for command in COMMANDS:
        lines = parser_of(command).format_help().partition("\nexamples:\n")[0].splitlines()
        assert max(map(len, lines)) <= 100
        assert not any(line.endswith("-") for line in lines)
