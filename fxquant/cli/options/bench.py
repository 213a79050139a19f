"""The options of ``fxquant bench``."""

from __future__ import annotations

import argparse

from fxquant.cli.options.shared import add_device, add_json, add_model_options, add_recipe_options, add_seed
from fxquant.measurement.option_values import positive

BASELINE = "bf16-compile"
ENGINES = (
    *("fp32", "fp32-compile", "bf16", "bf16-compile", "bf16-compile-matmul"),
    *("fxquant", "fxquant-compile", "fxquant-bf16", "fxquant-bf16-compile"),
    *("pt2e", "torchao-dynamic", "onnxruntime", "openvino-bf16", "openvino-int8", "openvino-int8-bf16"),
)
ALL = "all"
DESCRIPTION = """
Time a timm model on random images: fxquant's int8 beside float32, bfloat16 and other int8 engines, all in interleaved rounds.
Where MODEL is a .safetensors file, the quantised model in it is timed, eager and compiled.
Each engine is first checked: that it computes in the precision its name says, and what the float model computes. Engines that
are not installed are skipped, with what to install.
"""
EXAMPLES = (
    "fxquant bench deit_small_patch16_224 --batch 1 8 --threads 2 --json bench.json",
    "fxquant bench deit_small_patch16_224 --competitors fxquant-compile openvino-int8 --profile",
    "fxquant bench deit_int8.safetensors --batch 1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_options(parser)
    quantisation = parser.add_argument_group("quantisation")
    add_recipe_options(quantisation)
    parser.set_defaults(codes="int")  # the engines are compared on int8
    quantisation.add_argument("--calib", type=positive, default=32, metavar="N", help="random images to calibrate with")
    execution = parser.add_argument_group("execution")
    add_device(execution)
    add_seed(execution)
    group = parser.add_argument_group("measurement")
    group.add_argument("--batch", type=positive, nargs="+", default=[1, 8], metavar="N", help="batch sizes")
    group.add_argument("--rounds", type=positive, default=31, metavar="N", help="timed calls of each engine")
    group.add_argument(
        "--competitors",
        nargs="+",
        choices=(*ENGINES, ALL),
        default=[ALL],
        metavar="NAME",
        help=f"the engines to time, always with {BASELINE}; {ALL}, or some of {', '.join(ENGINES)}; of a saved model "
        "fxquant and fxquant-compile are timed",
    )
    group.add_argument("--profile", action="store_true", help="also say what the time goes to, eager and compiled")
    add_json(parser.add_argument_group("output"))
