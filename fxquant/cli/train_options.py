"""The options of ``fxquant train``."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from fxquant.cli.shared_options import add_image_options, add_model_options, add_quantisation_options, add_run_options
from fxquant.distillation.label_kind import kind_names
from fxquant.measurement.option_values import natural, positive
from fxquant.training import TrainingOptions

_DEFAULTS = {field.name: field.default for field in fields(TrainingOptions)}
# Name, type and help; the flag is the name with hyphens.
_TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("epochs", positive, "a pass that shows C crops of each image counts as C (%(default)s)"),
    ("batch_size", positive, "crops per step, over all processes together (%(default)s)"),
    ("crops", positive, "of each image in a pass, with --soft-labels (%(default)s)"),
    ("lr", float, "learning rate (%(default)s)"),
    ("min_lr", float, "where its half cosine ends (%(default)s)"),
    ("warmup_epochs", natural, "over which it rises (%(default)s)"),
    ("warmup_lr", float, "from this (%(default)s)"),
    ("weight_decay", float, "of weights, not of norms, biases, positions and steps (%(default)s)"),
    ("eps", float, "of AdamW (%(default)s)"),
    ("clip_grad", float, "largest norm of the gradient (no limit)"),
    ("ema_decay", float, "keep a moving average of the model, such as 0.9999 (none)"),
)
_QUANTISATION: tuple[tuple[str, Any, str], ...] = (
    ("regulariser_weight", float, "of the pull to the middle of bins at the end (%(default)s)"),
    ("oscillation_momentum", float, "of the average that tells oscillating weights (%(default)s)"),
    ("freeze_threshold", float, "freeze weights that oscillate more often than this, such as 0.1 (none)"),
    ("budget", float, "of 1e9 bit operations per image, for learned bit widths (none)"),
    ("budget_weight", float, "of the square of what is above the budget in the loss (%(default)s)"),
    ("bits_ratio", float, "part of the epochs in which bit widths are learned (%(default)s)"),
)


_SAVE = (
    "save the int8 model of the last weights, their moving average where one is kept, to this .safetensors file; "
    "--evaluate OUT/best.pt --save F saves that of the best"
)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add everything that the command takes."""
    add_model_options(parser)
    parser.add_argument("--init", type=Path, dest="checkpoint", metavar="F", help="--checkpoint by another name")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the image folder")
    parser.add_argument("--class-map", type=Path, metavar="F", help="class folder names by index, one per line (.txt)")
    add_image_options(parser)
    parser.add_argument(
        "--soft-labels", type=Path, metavar="DIR", help="a teacher's labels of crops (the folder's classes)"
    )
    kinds = ", ".join(kind_names())
    parser.add_argument("--label-kind", choices=kind_names(), metavar="K", help=f"{kinds} (the labels' own)")
    _add_files(parser)
    _add_quantisation(parser.add_argument_group("quantisation"))
    parser.set_defaults(attention=False)  # which vvtq always quantises
    add_training_options(parser)
    group = parser.add_argument_group("measurement and machine")
    group.add_argument("--eval-batch-size", type=positive, default=64, metavar="N", help="images (%(default)s)")
    group.add_argument("--limit", type=positive, metavar="N", help="measure on N images, drawn at random (all)")
    group.add_argument("--device", default="cpu", help="such as cpu or cuda (%(default)s)")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=natural, default=workers, metavar="N", help="loading processes (%(default)s)")
    add_run_options(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is kept")
    group.add_argument("--out", type=Path, metavar="DIR", help="checkpoint.pt, best.pt and log.csv go here")
    group.add_argument(
        "--resume",
        type=Path,
        nargs="?",
        const=True,
        default=False,
        metavar="F",
        help="go on from OUT's checkpoint, if it has one, or from this file; bit for bit on a CPU, while on a GPU the "
        "regulariser's sums are in no fixed order",
    )
    group.add_argument(
        "--evaluate",
        type=Path,
        nargs="?",
        const=True,
        metavar="F",
        help="train nothing: measure OUT's checkpoint, or this file, such as OUT/best.pt; --save then saves that one",
    )
    group.add_argument("--save", type=Path, metavar="F", help=_SAVE)
    group.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        metavar="X",
        help="between checkpoints, 0: each step (%(default)s)",
    )
    group.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard to OUT as well")


def _add_quantisation(group: argparse._ArgumentGroup) -> None:
    """Add what `resolve_recipe` reads, as far as it has a meaning in training."""
    group.add_argument(
        "--recipe", default="vvtq", metavar="vvtq", help="vvtq, the only recipe with learned steps (%(default)s)"
    )
    add_quantisation_options(group, bits=4, fewest=1, example="learned_bits=true")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add how the model is trained; `training_options` reads it."""
    group = parser.add_argument_group("training", "the defaults are those of VVTQ's published run")
    _add(group, _TRAINING)
    group.add_argument(
        "--drop-path", type=float, default=0.1, metavar="X", help="rate of dropped residual branches (%(default)s)"
    )
    group.add_argument(
        "--betas", type=float, nargs=2, default=_DEFAULTS["betas"], metavar="B", help="of AdamW (0.9 0.999)"
    )
    group.add_argument("--bf16", action="store_true", help="compute in bfloat16 by autocast, quantisers in float32")
    group.add_argument("--no-regulariser", action="store_true", help="do not pull weights to the middle of their bins")
    group.add_argument("--track-oscillations", action="store_true", help="log how many weights jump between two codes")
    _add(group, _QUANTISATION)


def training_options(options: argparse.Namespace) -> TrainingOptions:
    """Return the `TrainingOptions` asked for; raise `ConfigError` for what cannot be meant."""
    given = {name: getattr(options, name) for name, _, _ in (*_TRAINING, *_QUANTISATION)}
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
