"""Models by timm name, with pretrained, local or random weights."""

from __future__ import annotations

import difflib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from fxquant.errors import InputError
from fxquant.models import ITPN, SReT, itpn, sret  # whose names timm knows from now on


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
) -> TimmModel:
    """
    Create the timm model `name` (architecture, optionally with tag) on the CPU in eval mode.

    pretrained: timm's own weights. checkpoint: a local state dict instead, .safetensors or anything `torch.load` reads with
    ``weights_only``. Without either the weights are random, from torch's random state.

    Raises `InputError` for an unknown name or tag, weights that cannot be had, or a checkpoint of another model.
    """
    _check_name(name)
    model = _create(name, pretrained and checkpoint is None, num_classes, img_size).eval()
    config = dict(model.pretrained_cfg)
    full_name = ".".join(filter(None, (config.get("architecture") or name, config.get("tag"))))
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        return TimmModel(model, full_name, f"checkpoint {checkpoint}", config)
    if not pretrained:
        return TimmModel(
            model, full_name, "RANDOM: accuracy means nothing without --pretrained or --checkpoint", config
        )
    weights = f"pretrained, {config.get('hf_hub_id') or config.get('url') or full_name}"
    if num_classes is not None and num_classes != config.get("num_classes"):
        weights += (
            f"; the head of {num_classes} classes is RANDOM, as the pretrained one has {config.get('num_classes')}"
        )
    return TimmModel(model, full_name, weights, config)


def load_checkpoint(model: nn.Module, file: Path) -> None:
    """
    Load the state dict in `file` into `model`; averaged (EMA) weights are preferred, wrappers' prefixes are removed.

    Raises `InputError` where the file cannot be read, or its names or shapes are not those of the model.
    """
    if not file.is_file():
        raise InputError(f"checkpoint {str(file)!r} does not exist")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(f"cannot read the checkpoint {str(file)!r}: {error}") from error
    except (AttributeError, TypeError) as error:  # timm expects a dict of tensors
        raise InputError(f"checkpoint {str(file)!r} does not hold a state dict: {error}") from error
    if isinstance(model, ITPN):
        state = itpn.checkpoint_filter_fn(state, model)  # to this image size
    elif isinstance(model, SReT):
        state = sret.checkpoint_filter_fn(state, model)  # shared blocks at all their places
    wanted = model.state_dict()
    problems = [
        *_few("missing", [key for key in wanted if key not in state]),
        *_few("unexpected", [key for key in state if key not in wanted]),
        *_few("of another shape", _other_shapes(wanted, state)),
    ]
    if problems:
        raise InputError(
            f"checkpoint {str(file)!r} is not of this model: {'; '.join(problems)}. Check MODEL, --num-classes and --img-size"
        )
    model.load_state_dict(state)


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


def _create(name: str, pretrained: bool, num_classes: int | None, img_size: int | None) -> Any:
    arguments: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes}
    try:
        try:
            return timm.create_model(name, img_size=img_size, **arguments)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **arguments)  # takes images of any size
    except Exception as error:  # the hub client, torch and timm each have errors of their own
        reason = str(error).strip().partition("\n")[0]
        what = "cannot get pretrained weights of" if pretrained else "timm cannot create"
        hint = "; --checkpoint F loads a local file" if pretrained else ""
        raise InputError(f"{what} {name!r}: {reason}{hint}") from error


def _other_shapes(wanted: dict[str, Tensor], state: dict[str, Any]) -> list[str]:
    return [
        f"{key} {tuple(getattr(state[key], 'shape', ()))} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and getattr(state[key], "shape", None) != tensor.shape
    ]


def _few(kind: str, names: list[str]) -> list[str]:
    """Return a phrase that counts `names` and gives the first three, or nothing where there are none."""
    return [f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"] if names else []
