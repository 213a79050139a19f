"""Files of `fxquant.save` where a timm model could be named: what they say of themselves, and which options are not theirs."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx

import fxquant
from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.cli.preprocessing import given_preprocessing
from fxquant.data.data_config import DataConfig
from fxquant.errors import InputError
from fxquant.graph.card import MeasuredAccuracy, ModelCard
from fxquant.graph.meta import set_card, value_of

SUFFIX = ".safetensors"
# What makes or quantises a model, by the names of the parsed options.
_MODEL = ("pretrained", "checkpoint", "num_classes", "dtype")
_QUANTISATION = (
    *("recipe", "option", "w_bits", "a_bits", "codes", "no_patch_embed", "no_head", "memory", "attention"),
    *("calib", "calib_batch_size", "synthesis", "target", "strict", "save"),
)


def is_saved(model: str) -> bool:
    """Say whether MODEL is a file rather than a name of timm."""
    return model.endswith(SUFFIX)


def save_with_card(
    gm: fx.GraphModule, file: Path, card: ModelCard | None, accuracy: MeasuredAccuracy | None = None
) -> int:
    """Save a graph with its card and return the bytes of the file; raise as `fxquant.save` does."""
    if card is not None:
        set_card(gm, replace(card, accuracy=accuracy or card.accuracy))
    fxquant.save(gm, file)
    return os.path.getsize(file)


def load_saved(file: str, device: torch.device) -> StagedGraph:
    """Return the graph in a file, in evaluation mode; raise as `fxquant.load` does."""
    gm = fxquant.load(file, device)
    gm.eval()
    return gm


def refuse_model_options(options: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Raise `InputError` where an option was given that makes or quantises a model: a saved file is done."""
    for name in (*_MODEL, *_QUANTISATION):
        if getattr(options, name, None) != getattr(defaults, name, None):
            raise InputError(
                f"--{name.replace('_', '-')} is for a timm model by name: {options.model} is a saved model, whose weights and "
                "quantisation are fixed"
            )


def saved_data_config(gm: StagedGraph, options: argparse.Namespace) -> DataConfig:
    """
    Return the data config in a file with the values that were given.

    Raises `InputError` where the file has none and mean and std were not given, and `ConfigError` for impossible values.
    """
    given = given_preprocessing(options)
    if gm.data_config is not None:
        return gm.data_config.changed(given)
    size = input_size(gm)
    if size is None or not {"mean", "std"} <= given.keys():
        raise InputError(
            f"{options.model} does not say how images are prepared: give --mean and --std"
            f"{'' if size else ' and --data-config with input_size'}, or save it with gm.data_config = fxquant.DataConfig(...)"
        )
    return DataConfig(size, (0.0,) * size[0], (1.0,) * size[0]).changed(given)


def input_size(gm: fx.GraphModule) -> tuple[int, int, int] | None:
    """Return ``(C, H, W)`` of the images that a graph was made for, None where it does not take images alone."""
    values = [value_of(node) for node in gm.graph.nodes if node.op == "placeholder"]
    if len(values) != 1 or values[0] is None or values[0].dim() != 4:
        return None
    _, channels, height, width = values[0].shape
    return int(channels), int(height), int(width)
