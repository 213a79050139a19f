"""Models by timm name, with pretrained, local or random weights."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import _builder
from torch import nn

from fxquant.errors import InputError, reason_of
from fxquant.models.fit_weights import Filter, load_weights
from fxquant.models.weight_file import read_weights

_LOCK = threading.Lock()  # timm's loader is one for the whole process


@dataclass(frozen=True, eq=False)
class TimmModel:
    """A model in eval mode. name: architecture and tag, which decide its data config. weights: where they come from."""

    model: nn.Module
    name: str
    weights: str
    pretrained_cfg: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 for a model without a classifier."""
        return int(getattr(self.model, "num_classes", 0))

    def __str__(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return f"{self.name}, {parameters / 1e6:.1f} M parameters"


def build_timm_model(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    in_chans: int | None = None,
    dynamic: bool = False,
) -> TimmModel:
    """
    Create the timm model `name` (architecture, optionally with tag) on the CPU in eval mode.

    pretrained: timm's own weights. checkpoint: a local state dict or whole model instead, .safetensors or a file of
    `torch.save`, in any layout that timm converts for this architecture; no code of it runs. See `read_weights` and
    `load_weights`. Without either the weights are random, from torch's random state. in_chans: channels of its images, None for
    the model's own; weights for 3 are adapted as timm does. dynamic: it takes images of any size, for which timm has a switch
    in some families, and needs none in others.

    Raises `InputError` for an unknown name or tag, weights that cannot be had or adapted, or a checkpoint of another model.
    """
    _check_name(name)
    asked: dict[str, int | None] = {"num_classes": num_classes, "img_size": img_size, "in_chans": in_chans}
    if dynamic:
        asked["dynamic_img_size"] = True
    if checkpoint is not None:
        model, weights = _create_from(name, checkpoint, asked)
    else:
        model = _create(name, pretrained, asked)
        weights = (
            _describe_pretrained(model, asked)
            if pretrained
            else "RANDOM: accuracy means nothing without --pretrained or --checkpoint"
        )
    config = dict(model.pretrained_cfg)
    full_name = ".".join(filter(None, (config.get("architecture") or name, config.get("tag"))))
    return TimmModel(model.eval(), full_name, weights, config)


def load_checkpoint(model: nn.Module, file: Path) -> None:
    """Load the state dict in `file`, with the names and shapes of `model`; raise as `read_weights` and `load_weights` do."""
    load_weights(model, read_weights(file), file)


def _create_from(name: str, file: Path, asked: dict[str, int | None]) -> tuple[Any, str]:
    """Return the model with the weights in `file`, and what to say about them."""
    found, changed = read_weights(file), list[str]()

    def load(model: nn.Module, *, filter_fn: Filter | None = None, in_chans: int = 3, **_: Any) -> None:
        changed.extend(load_weights(model, found, file, filter_fn, in_chans))

    with _loading_by(load):
        model = _create(name, True, asked)
    resized = f"; resized: {', '.join(changed)}" if changed else ""
    return model, f"checkpoint {file}{resized}"


@contextlib.contextmanager
def _loading_by(load: Callable[..., None]) -> Iterator[None]:
    """Let `load` stand in for timm's loader, which alone is given an architecture's filter of published weights."""
    with _LOCK:
        own, _builder.load_pretrained = _builder.load_pretrained, load
        try:
            yield
        finally:
            _builder.load_pretrained = own


def _describe_pretrained(model: Any, asked: dict[str, int | None]) -> str:
    """Return where timm's weights are from and what differs; raise `InputError` where timm left a layer random unasked."""
    config = model.pretrained_cfg
    full_name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    text = f"pretrained, {config.get('hf_hub_id') or config.get('url') or full_name}"
    classes, channels = asked["num_classes"], asked["in_chans"]
    if classes is not None and classes != config.get("num_classes"):
        text += f"; the head of {classes} classes is RANDOM, as the pretrained one has {config.get('num_classes')}"
    published = (config.get("input_size") or (3,))[0]
    if channels is None or channels == published:
        return text
    first = config.get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Conv2d) or (channels > 1 and layer.in_channels != channels):
            raise InputError(
                f"timm cannot adapt the pretrained weights of {full_name} from {published} to {channels} channels: "
                f"{name} is {layer}"
            )
    return f"{text}; the first layer is adapted from {published} to {channels} channels"


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if ":" in name:  # hf-hub:owner/name and local-dir:path are timm's to resolve
        return
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        raise InputError(f"timm has no model {architecture!r}" + (f"; close: {', '.join(close)}" if close else ""))
    known = [full.partition(".")[2] for full in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in known:
        raise InputError(f"timm's {architecture} has no tag {tag!r}; it has {', '.join(known) or 'none'}")


def _create(name: str, pretrained: bool, asked: dict[str, int | None]) -> Any:
    try:
        return _create_of_size(name, pretrained, asked)
    except InputError:
        raise
    except Exception as error:  # the hub client, torch and timm each have errors of their own
        reason = reason_of(error)
        what = "cannot get pretrained weights of" if pretrained else "timm cannot create"
        hint = "; --checkpoint F loads a local file" if pretrained else ""
        raise InputError(f"{what} {name!r}: {reason}{hint}") from error


def _create_of_size(name: str, pretrained: bool, asked: dict[str, int | None]) -> Any:
    """Create a model, without those of the arguments about sizes that its family does not have: it takes any size then."""
    try:
        return timm.create_model(name, pretrained=pretrained, **asked)
    except TypeError as error:
        refused = next(
            (key for key in ("dynamic_img_size", "img_size") if key in asked and f"'{key}'" in str(error)), None
        )
        if refused is None:
            raise
    return _create_of_size(name, pretrained, {key: value for key, value in asked.items() if key != refused})
