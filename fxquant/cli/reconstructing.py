"""``--reconstruct``: blocks are trained to give what the float model gives, once the model is calibrated."""

from __future__ import annotations

import argparse
from typing import Any

from fxquant.cli.resolve import collect_options
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.reconstruction.reconstruction_options import make_options


def resolve_reconstruction(options: argparse.Namespace, config: QuantConfig) -> dict[str, Any] | None:
    """
    Return what `fxquant.reconstruct` is given, by name, None where neither the command nor the recipe's `config` asks for it.

    Raises `ConfigError` for options that it does not take, or that nothing would read.
    """
    iterations = options.reconstruct or config.reconstruction
    if not iterations:
        if options.reconstruction:
            raise ConfigError("--reconstruction holds options of --reconstruct: give both, or neither")
        return None
    given = collect_options([("iterations", iterations), *options.reconstruction])
    make_options({name: value for name, value in given.items() if name != "checkpoint"})
    return given
