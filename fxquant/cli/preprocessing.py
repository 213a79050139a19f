"""What the options of preprocessing ask for."""

from __future__ import annotations

import argparse
from typing import Any

from fxquant.data.batches import resolve_data_config
from fxquant.data.data_config import DataConfig
from fxquant.data.data_config_file import read_data_config
from fxquant.errors import ConfigError
from fxquant.models.timm_model import TimmModel

_FLAGS = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "img_size", "in_chans")


def given_preprocessing(options: argparse.Namespace) -> dict[str, Any]:
    """
    Return the values that were given, by the names of `DataConfig.changed`.

    Raises `InputError` where --data-config cannot be read.
    """
    values = read_data_config(options.data_config) if options.data_config else {}
    flags = {name: getattr(options, name) for name in _FLAGS}
    return values | {name: value for name, value in flags.items() if value is not None}


def given_sizes(options: argparse.Namespace) -> dict[str, int | None]:
    """Return img_size and in_chans of the model that is built, None for its own; raise as `given_preprocessing` does."""
    values = given_preprocessing(options)
    size = values.get("input_size")
    known = isinstance(size, list | tuple) and len(size) == 3 and all(type(n) is int for n in size)
    channels, height, width = size if known and size is not None else (None, None, None)
    if height != width:
        raise ConfigError(f"--data-config: models are built for square images, got input_size {size}")
    return {"img_size": values.get("img_size", height), "in_chans": values.get("in_chans", channels)}


def chosen_data_config(options: argparse.Namespace, source: TimmModel) -> DataConfig:
    """Return the data config of a model with the values that were given; raise `ConfigError` for impossible ones."""
    return resolve_data_config(source.model).changed(given_preprocessing(options))
