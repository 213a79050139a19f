"""One look for the help of every command: the usage, the default of each option, and examples at the end."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from fxquant.measurement.option_values import format_value

WIDTH = 100


class HelpFormatter(argparse.HelpFormatter):
    """
    Say of every option with a value what its default is, and whether it is required; keep the lines of examples.

    A help text that says "default: ..." itself is left as it is, as where the default depends on something else.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(WIDTH, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, **({"max_help_position": 30, "width": width} | options))

    def add_argument(self, action: argparse.Action) -> None:
        """Add an action; the names of commands, which Python 3.11 does not count as indented, get the room they need."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        value = action.default
        unsaid = action.nargs == 0 or value is None or value is False or value == [] or value == argparse.SUPPRESS
        if unsaid or not action.option_strings or "default: " in text:
            return text
        values = value if isinstance(value, list | tuple) else [value]
        return f"{text} (default: {' '.join(map(format_value, values))})"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return textwrap.indent("\n".join(self._split_lines(text, width - len(indent))), indent)


def style(parser: argparse.ArgumentParser, description: str, examples: Sequence[str]) -> None:
    """Give the parser of a command, which has all of its options, its description, usage and examples."""
    parser.formatter_class = HelpFormatter
    parser.description = description.strip()
    parser.epilog = "\n".join(["examples:", *(f"  {example}" for example in examples)])
    parser.usage = f"{parser.prog} {' '.join([*_needed(parser), '[OPTION...]'])}"


def _needed(parser: argparse.ArgumentParser) -> list[str]:
    """Return the arguments that cannot be left out, as they are typed."""
    typed = []
    for action in parser._actions:
        several = "..." if action.nargs == "+" else ""
        if not action.option_strings and action.nargs != 0:
            typed.append(f"{action.metavar}{several}")
        elif action.required:
            typed.append(f"{action.option_strings[-1]} {action.metavar}")
    return typed
