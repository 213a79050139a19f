"""Run a command that was parsed."""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.failures import told
from fxquant.cli.interrupts import ended_by_interrupt


def execute(options: argparse.Namespace) -> int:
    """
    Run the command of parsed `options` and return its `ExitCode`.

    Its module is imported now, and with it torch, where the command computes. Where torchrun started this process, a command
    that shares its work runs in the group of all of them.
    """
    return told(lambda: _run(options), options.debug)


def _run(options: argparse.Namespace) -> int:
    with ended_by_interrupt():
        command = import_module(f"fxquant.cli.{options.command.replace('-', '_')}")
    if getattr(command, "SHARES_WORK", False) and "RANK" in os.environ:
        grouped = import_module("fxquant.cli.grouped")  # which imports torch
        return int(grouped.run_as_one(lambda: command.run(options), options.device, options.debug))
    command.run(options)
    return ExitCode.DONE
