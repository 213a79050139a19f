"""The options of ``fxquant completion``."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = """
Print a script by which a shell completes the commands of fxquant, their options and values. The script is text: completing
starts no Python. Print it again when fxquant is upgraded.
"""
EXAMPLES = (
    "fxquant completion bash > ~/.local/share/bash-completion/completions/fxquant",
    "fxquant completion zsh > ~/.zfunc/_fxquant",
    "fxquant completion fish > ~/.config/fish/completions/fxquant.fish",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
