"""What synthesis needs to know of a model: its graph, the size of its images, and their normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxquant.api import trace
from fxquant.data.batches import resolve_data_config
from fxquant.data.data_config import DataConfig
from fxquant.errors import ConfigError, InputError
from fxquant.graph.meta import value_of
from fxquant.graph.stages import Stage, stage_of
from fxquant.synthesis.contexts import ContextGraph, expose_contexts
from fxquant.synthesis.synthesis_options import IMAGENET_MEAN, IMAGENET_STD, SynthesisOptions

Size = int | tuple[int, int] | tuple[int, int, int] | None


@dataclass(frozen=True, eq=False)
class SynthesisModel:
    """
    A model to synthesise images for.

    source: the traced model.
    contexts: a copy of it that also returns attention outputs.
    shape, mean, std: the shape and the normalisation of its images.
    """

    source: fx.GraphModule
    contexts: ContextGraph
    shape: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return black and white in normalised space, each ``(1, C, 1, 1)``."""
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (0 - mean) / std, (1 - mean) / std


def read_subject(model: nn.Module, batch: int, size: Size, options: SynthesisOptions) -> SynthesisModel:
    """
    Trace `model`, which is not changed, and find its attention; a graph from `fxquant.trace` is used as it is.

    batch: the number of images in a batch.

    Raises `InputError` where the size is unknown or does not fit the model, and what `expose_contexts` raises.
    """
    if getattr(model, "num_classes", None) == 0:
        raise InputError("image synthesis needs a classifier; this model has num_classes=0: create it with its head")
    shape = resolve_size(model, size)
    example = _example(model, batch, shape)
    try:
        source = _as_graph(model, example)
        contexts = expose_contexts(source, example, options.published)
    except InputError as error:
        if size is not None or "does not accept" not in str(error):
            raise
        raise InputError(
            f"images {shape}, which the model's data config names, do not fit it: give size=, the height and width that it "
            f"takes, or (channels, height, width). {error}"
        ) from error
    return SynthesisModel(source, contexts, shape, *resolve_normalisation(model, options, shape[0]))


def resolve_size(model: nn.Module, size: Size) -> tuple[int, int, int]:
    """
    Return channels, height and width of the images: as given, or from timm's data config, or from what a graph was traced
    with.

    If only height and width are given, there are as many channels as the data config says, or 3.
    """
    config = _data_config(model)
    if size is not None:
        given = (size, size) if isinstance(size, int) else size
        if not (
            isinstance(given, tuple) and len(given) in (2, 3) and all(isinstance(s, int) and s >= 1 for s in given)
        ):
            raise ConfigError(
                f"size must be a positive whole number, (height, width) or (channels, height, width), got {size!r}"
            )
        return (config.input_size[0] if config else 3, *given) if len(given) == 2 else given
    if config:
        return config.input_size
    if isinstance(model, fx.GraphModule):
        seen = next((value_of(n) for n in model.graph.nodes if n.op == "placeholder"), None)
        if isinstance(seen, Tensor) and seen.dim() == 4:
            return int(seen.shape[1]), int(seen.shape[2]), int(seen.shape[3])
    raise InputError("the size of the model's images is not known: give size=, such as 224 or (height, width)")


def _as_graph(model: nn.Module, example: Tensor) -> fx.GraphModule:
    if isinstance(model, fx.GraphModule) and stage_of(model) is Stage.FLOAT:
        return model
    return trace(model, example)  # of its size, which need not be that of the model's data config


def _example(model: nn.Module, batch: int, shape: tuple[int, int, int]) -> Tensor:
    tensor = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, *shape, dtype=tensor.dtype, device=tensor.device)


def resolve_normalisation(
    model: nn.Module, options: SynthesisOptions, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """
    Return mean and std, an entry per channel: those of the options, of timm's data config, or of ImageNet.

    Raises `ConfigError` where they have another number of channels.
    """
    config = _data_config(model)
    mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
    if options.mean is not None and options.std is not None:
        mean, std = options.mean, options.std
    if not len(mean) == len(std) == channels:
        raise ConfigError(f"images of {channels} channels need mean= and std= of as many entries, got {mean} and {std}")
    return mean, std


def _data_config(model: nn.Module) -> DataConfig | None:
    """Return timm's data config of `model`, None for a model that timm did not make."""
    if not getattr(model, "pretrained_cfg", None):
        return None
    return resolve_data_config(model)
