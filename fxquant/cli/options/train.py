"""The options of ``fxquant train``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from fxquant.cli.options.shared import (
    add_device,
    add_folder_options,
    add_json,
    add_model_options,
    add_quantisation_options,
    add_seed,
    add_workers,
)
from fxquant.distillation.label_kind import kind_names
from fxquant.measurement.option_values import natural, positive
from fxquant.training import TrainingOptions

DESCRIPTION = """
Train a timm model with quantised weights and activations on an ImageFolder tree of train/ and val/ (or validation/, test/), by
VVTQ: learned step sizes, several crops of each image with a teacher's stored soft labels, and a regulariser of the weights.
Without soft labels the folder's classes are learned. An interrupted training goes on with --resume. Started by torchrun, every
process trains on its part of each batch. A training image that cannot be read is an error, as every step is planned; images
to measure on are skipped and named, and more than 1 % of them are an error.
"""
EXAMPLES = (
    "fxquant train deit_tiny_patch16_224.fb_in1k --pretrained --data imagenet --out run --w-bits 4 --a-bits 4",
    "fxquant train deit_tiny_patch16_224.fb_in1k --pretrained --data imagenet --out run --resume",
    "fxquant train deit_tiny_patch16_224.fb_in1k --data imagenet --evaluate run/best.pt --save deit_w4a4.safetensors",
)
_DEFAULTS = {field.name: field.default for field in fields(TrainingOptions)}
# Name, type and help; the flag is the name with hyphens.
_TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("epochs", positive, "length of the training; a pass that shows C crops of each image counts as C"),
    ("batch_size", positive, "crops per step, over all processes together"),
    ("crops", positive, "crops of each image in a pass, with --soft-labels"),
    ("lr", float, "learning rate"),
    ("min_lr", float, "learning rate at the end of its half cosine"),
    ("warmup_epochs", natural, "epochs over which the learning rate rises"),
    ("warmup_lr", float, "learning rate that it rises from"),
    ("weight_decay", float, "decay of weights, not of norms, biases, positions and steps"),
    ("eps", float, "constant of AdamW"),
    ("clip_grad", float, "largest norm of the gradient (default: no limit)"),
    ("ema_decay", float, "keep a moving average of the model, such as 0.9999 (default: none)"),
)
_REGULARISER: tuple[tuple[str, Any, str], ...] = (
    ("regulariser_weight", float, "pull of weights to the middle of their bins at the end"),
    ("oscillation_momentum", float, "momentum of the average that tells oscillating weights"),
    ("freeze_threshold", float, "freeze weights that oscillate more often than this, such as 0.1 (default: none)"),
    ("budget", float, "largest number of bit operations per image, in 1e9, for learned bit widths (default: none)"),
    ("budget_weight", float, "weight in the loss of the square of what is above the budget"),
    ("bits_ratio", float, "part of the epochs in which bit widths are learned"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that the command takes."""
    add_model_options(parser)
    _add_images(parser.add_argument_group("images"))
    _add_quantisation(parser.add_argument_group("quantisation"))
    _add_training(parser.add_argument_group("training", "the defaults are those of VVTQ's published run"))
    group = parser.add_argument_group("execution")
    add_device(group, shared=True)
    add_workers(group)
    add_seed(group)
    measurement = parser.add_argument_group("measurement")
    measurement.add_argument("--eval-batch-size", type=positive, default=64, metavar="N", help="images per batch")
    measurement.add_argument(
        "--limit", type=positive, metavar="N", help="measure on N images, drawn at random (default: all)"
    )
    _add_output(parser.add_argument_group("output"))
    parser.set_defaults(attention=False, codes="int")  # which vvtq always quantises


def _add_images(group: argparse._ArgumentGroup) -> None:
    add_folder_options(group)
    group.add_argument(
        "--soft-labels", type=Path, metavar="DIR", help="a teacher's labels of crops (default: the folder's classes)"
    )
    kinds = ", ".join(kind_names())
    group.add_argument(
        "--label-kind", choices=kind_names(), metavar="KIND", help=f"one of {kinds} (default: the labels' own)"
    )


def _add_quantisation(group: argparse._ArgumentGroup) -> None:
    """Add what `resolve_recipe` reads, as far as it has a meaning in training."""
    group.add_argument("--recipe", default="vvtq", metavar="NAME", help="vvtq, the only recipe with learned steps")
    add_quantisation_options(group, bits=4, fewest=1, example="learned_bits=true")


def _add_training(group: argparse._ArgumentGroup) -> None:
    """Add how the model is trained; `training_options` reads it."""
    group.add_argument("--init", type=Path, dest="checkpoint", metavar="FILE", help="--checkpoint by another name")
    _add(group, _TRAINING)
    group.add_argument("--drop-path", type=float, default=0.1, metavar="X", help="rate of dropped residual branches")
    group.add_argument(
        "--betas", type=float, nargs=2, default=_DEFAULTS["betas"], metavar="X", help="constants of AdamW"
    )
    group.add_argument("--bf16", action="store_true", help="compute in bfloat16 by autocast, quantisers in float32")
    group.add_argument("--no-regulariser", action="store_true", help="do not pull weights to the middle of their bins")
    group.add_argument("--track-oscillations", action="store_true", help="log how many weights jump between two codes")
    _add(group, _REGULARISER)


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--out", type=Path, metavar="DIR", help="checkpoint.pt, best.pt and log.csv go here")
    group.add_argument(
        "--resume",
        type=Path,
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="go on from OUT's checkpoint, if it has one, or from this file; bit for bit on a CPU, while on a GPU the "
        "regulariser's sums are in no fixed order",
    )
    group.add_argument(
        "--evaluate",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="train nothing: measure OUT's checkpoint, or this file, such as OUT/best.pt; --save then saves that one",
    )
    group.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="save the int8 model of the last weights, their moving average where one is kept (.safetensors); "
        "--evaluate OUT/best.pt --save FILE saves that of the best",
    )
    group.add_argument(
        "--checkpoint-minutes", type=float, default=10.0, metavar="X", help="minutes between checkpoints; 0: each step"
    )
    group.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard to OUT as well")
    add_json(group)


def training_options(options: argparse.Namespace) -> TrainingOptions:
    """Return the `TrainingOptions` asked for; raise `ConfigError` for what cannot be meant."""
    given = {name: getattr(options, name) for name, _, _ in (*_TRAINING, *_REGULARISER)}
    return TrainingOptions(
        **given,
        betas=tuple(options.betas),
        bf16=options.bf16,
        regulariser=not options.no_regulariser,
        track_oscillations=options.track_oscillations,
        seed=options.seed,
    )


def _add(group: argparse._ArgumentGroup, rows: tuple[tuple[str, Any, str], ...]) -> None:
    for name, kind, text in rows:
        flag, letter = f"--{name.replace('_', '-')}", "X" if kind is float else "N"
        group.add_argument(flag, type=kind, default=_DEFAULTS[name], metavar=letter, help=text)
