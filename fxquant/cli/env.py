"""``fxquant env``: what this machine offers, and which kernels int8 models run on."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from fxquant.cli.output import print_facts
from fxquant.files import json_report
from fxquant.kernels import copy_libraries, cpu, triton
from fxquant.kernels.cpu import build
from fxquant.measurement.environment import describe_environment
from fxquant.ops.onednn_linear import is_available as has_onednn


def run(options: argparse.Namespace) -> None:
    """Print the machine and the kernels, and write the libraries where they were asked for."""
    with json_report(options.json) as facts:
        machine, kernels = describe_environment(), describe_kernels()
        facts |= {"command": "env", "environment": machine, "kernels": kernels}
        print_facts(
            {
                "fxquant": f"{machine['fxquant']}, torch {machine['torch']}, Python {machine['python']}",
                "processor": f"{machine['processor']}, {machine['cores']} cores, {', '.join(machine['features'])}",
                "int8 on it": _used(kernels),
                "instructions": ", ".join(f"{name} ({where})" for name, where in kernels["isas"].items()) or "none",
                "compiler": kernels["compiler"] or build.NO_COMPILER,
                "GPU": _gpu(machine["gpu"], kernels["triton"]),
            }
        )
        if options.libraries is not None:
            files = copy_libraries(options.libraries)
            facts["libraries"] = [str(file) for file in files]
            print_facts({"libraries": ", ".join(file.name for file in files) + f" in {str(options.libraries)!r}"})


def describe_kernels() -> dict[str, Any]:
    """Return which kernels this machine can run, where they come from and which are used, without building any."""
    isa, obstacle = cpu.isa_in_use(), cpu.expected_obstacle()
    there = cpu.prebuilt()
    return {
        "in_use": isa.name if isa is not None and obstacle is None else None,
        "obstacle": obstacle,
        "onednn": has_onednn(),
        "isas": {each.name: "in the package" if each in there else "built here" for each in cpu.isas_here()},
        "compiler": build.compiler(),
        "triton": triton.obstacle(0) if torch.cuda.is_available() else None,
    }


def _used(kernels: dict[str, Any]) -> str:
    if kernels["obstacle"] is None:
        return f"fxquant's kernels for {kernels['in_use']}"
    instead = "oneDNN's linear layers and torch's operators" if kernels["onednn"] else "torch's operators"
    return f"{instead}: {kernels['obstacle']}"


def _gpu(name: str | None, obstacle: str | None) -> str:
    if name is None:
        return "none"
    return f"{name}, " + (f"torch's operators: {obstacle}" if obstacle else "fxquant's kernels in Triton")
