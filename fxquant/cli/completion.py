"""``fxquant completion SHELL``: a script that completes commands, options, files, and the names that options take."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from fxquant.cli.main import build_parser
from fxquant.cli.options.recipe_descriptions import DESCRIPTIONS

_FILES = {
    "FILE": shtab.FILE,
    "IMAGE": shtab.FILE,
    "JSON": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    "LABELS": shtab.DIRECTORY,
}


def run(options: argparse.Namespace) -> None:
    """Print the script."""
    parser = build_parser()
    for action in _actions(parser):
        if action.dest == "recipe":
            action.choices = tuple(DESCRIPTIONS)  # which the command itself refuses with a better message
        elif action.metavar in _FILES:
            action.complete = _FILES[action.metavar]  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what the parser and those of its commands take."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
