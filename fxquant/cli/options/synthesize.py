"""The options of ``fxquant synthesize``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from fxquant.cli.options.shared import add_device, add_dtype, add_json, add_model_options, add_seed
from fxquant.measurement.option_values import positive, recipe_option
from fxquant.synthesis import SynthesisOptions

DESCRIPTION = """
Make calibration images without data, from a classifier's own attention (PSAQ-ViT): noise is optimised until the similarities
between patches are spread as those of real images. The images go to a .safetensors file, in the model's normalised space, and
to a contact sheet to look at. An interrupted run goes on where it was when the same command is given again.
"""
EXAMPLES = (
    "fxquant synthesize deit_small_patch16_224.fb_in1k --pretrained --out images.safetensors",
    "fxquant synthesize vit_tiny_patch16_224 --checkpoint mine.pth --n 8 --iterations 200 --out images.safetensors",
)
_TUPLES = ("jitter", "betas", "tv_target", "mean", "std")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_options(parser)
    group = parser.add_argument_group("synthesis")
    group.add_argument("--n", type=positive, default=32, metavar="N", help="images")
    group.add_argument(
        "--batch", type=positive, metavar="N", help="images optimised together: less memory (default: all)"
    )
    group.add_argument(
        "--size", type=positive, metavar="N", help="height and width (default: --img-size, or the model's own)"
    )
    group.add_argument(
        "--iterations",
        type=positive,
        metavar="N",
        help=f"iterations of each of the two rounds (default: {SynthesisOptions.iterations})",
    )
    group.add_argument("--published", action="store_true", help="as the authors' code, its oversights included")
    names = ", ".join(field.name for field in fields(SynthesisOptions))
    group.add_argument(
        "--option",
        type=synthesis_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"one of {names}; tuples as 15,30; repeatable",
    )
    execution = parser.add_argument_group("execution")
    add_device(execution)
    add_dtype(execution, "the model", ("float32", "bfloat16"))
    add_seed(execution)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help="the images (.safetensors)")
    output.add_argument("--sheet", type=Path, metavar="FILE", help="the contact sheet (default: OUT with .png)")
    output.add_argument("--no-sheet", action="store_true", help="write no contact sheet")
    output.add_argument(
        "--state", type=Path, metavar="FILE", help="an unfinished run, removed when done (default: OUT.state)"
    )
    add_json(output)


def synthesis_option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE as `recipe_option` does; values with commas, and those of options that are tuples, become tuples."""
    name, value = recipe_option(text)
    if isinstance(value, str) and "," in value:
        return name, tuple(recipe_option(f"{name}={part}")[1] for part in value.split(",") if part)
    return name, (value,) if name in _TUPLES and value is not None else value
