"""Weights of a published file under the names and in the shapes of a model: all of them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from fxquant.errors import InputError

Filter = Callable[..., Any]

# First parts of names that wrappers of a model add, in any nesting.
_PREFIXES = ("_orig_mod", "module", "model", "net", "backbone")
_AVERAGED = ("model_ema", "ema_model", "ema", "averaged_model")
_COUNTERS = ("n_averaged", "steps")  # that averaging keeps next to the weights
_RECOMPUTED = ("attn_mask", "relative_position_index", "relative_coords_table")
_TRANSFORMERS = (
    "encoder.layer.",
    "patch_embeddings.",
    "embeddings.cls_token",
    "embeddings.patch_embedding",
    "vision_model.",
)


@dataclass(frozen=True)
class Fitted:
    """
    state: what `model.load_state_dict` takes. changed: a phrase for each tensor that has another shape than in the file.

    problems: why the state is not of the model; empty where it is.
    """

    state: dict[str, Tensor]
    changed: tuple[str, ...]
    problems: tuple[str, ...]


def load_weights(
    model: nn.Module, found: Mapping[str, Any], file: Path, filter_fn: Filter | None = None, in_chans: int = 3
) -> tuple[str, ...]:
    """
    Load the state dict `found`, which is that of `file`, into `model`; return a phrase for each tensor that was resized.

    filter_fn: timm's for this architecture, which knows the layouts that its weights are published in and resamples positions
    to the size of the model. It is asked with the names of the file, and then without prefixes that wrappers added.
    in_chans: the channels of the model's images; a first convolution over 3 is adapted as timm does.

    Raises `InputError` where weights are missing, left over, or of another shape. Buffers that the model computes itself may
    be missing or left over.
    """
    fitted = _fit(model, found, filter_fn, in_chans)
    if fitted.problems:
        bare = _strip(found, model)
        if bare.keys() != found.keys():
            fitted = _fit(model, bare, filter_fn, in_chans)
    if fitted.problems:
        raise InputError(
            f"checkpoint {str(file)!r} is not of this model: {'; '.join(fitted.problems)}. {_advice(found)}"
        )
    model.load_state_dict(fitted.state)
    return fitted.changed


def _fit(model: nn.Module, found: Mapping[str, Any], filter_fn: Filter | None, in_chans: int) -> Fitted:
    try:
        state = _filtered(filter_fn, found, model) if filter_fn else dict(found)
    except Exception as error:  # filters rely on the names of their own layouts
        return Fitted({}, (), (f"timm cannot convert its names ({type(error).__name__}: {error})",))
    own = model.state_dict()
    _adapt_input(model, own, state, in_chans)
    computed = _computed(model)
    state = {name: value for name, value in state.items() if not computed(name)}
    changed = _changes(found, state)
    state |= {name: tensor for name, tensor in own.items() if computed(name)}
    problems = (
        *_few("missing", [name for name in own if name not in state]),
        *_few("unexpected", [name for name in state if name not in own]),
        *_few("of another shape", _other_shapes(own, state)),
        *_few("of another type", _other_types(own, state)),
    )
    return Fitted(state, tuple(changed), problems)


def _filtered(filter_fn: Filter, found: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Call a filter of timm's, of which a few old ones do not take the model."""
    takes_model = len(signature(filter_fn).parameters) > 1
    return dict(filter_fn(dict(found), model) if takes_model else filter_fn(dict(found)))


def _computed(model: nn.Module) -> Callable[[str], bool]:
    """Return a function that says whether the model computes the tensor of a name itself: what a state dict need not hold."""
    kept, parameters = model.state_dict().keys(), {name for name, _ in model.named_parameters()}
    computed = {name for name, _ in model.named_buffers() if name not in kept}
    return lambda name: name in computed or (name not in parameters and name.rpartition(".")[2] in _RECOMPUTED)


def _strip(found: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """
    Return `found` without prefixes that no name of `model` has: those of usual wrappers, and one that all names share.

    Where averaged weights (EMA) stand next to the others under a prefix of their own, they alone are taken.
    """
    own = {name.partition(".")[0] for name in model.state_dict()}
    state = {name: value for name, value in found.items() if name.rpartition(".")[2] not in _COUNTERS}
    while True:
        heads = {name.partition(".")[0] for name in state if "." in name}
        averaged = next((head for head in _AVERAGED if head in heads - own), None)
        shared = len(heads) == 1 and all("." in name for name in state)
        loose = {averaged} if averaged else {head for head in heads - own if shared or head in _PREFIXES}
        if not loose:
            return state
        kept = {n: v for n, v in state.items() if n.partition(".")[0] in loose} if averaged else state
        bare = {_without(name, loose): value for name, value in kept.items()}
        if len(bare) < len(kept):  # two prefixes hold weights of the same names
            return state
        state = bare


def _without(name: str, heads: set[str]) -> str:
    head, dot, rest = name.partition(".")
    return rest if dot and head in heads else name


def _adapt_input(model: nn.Module, own: Mapping[str, Tensor], state: dict[str, Any], in_chans: int) -> None:
    """Give the first convolutions `in_chans` channels in place of 3, where nothing else about their shape differs."""
    first: Any = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        key = f"{name}.weight"
        weight, wanted = state.get(key), own.get(key)
        if not isinstance(weight, Tensor) or wanted is None or weight.ndim != 4 or in_chans == 3:
            continue
        if weight.shape[1] == 3 and wanted.shape == (weight.shape[0], in_chans, *weight.shape[2:]):
            state[key] = adapt_input_conv(in_chans, weight)


def _other_shapes(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {tuple(getattr(state[name], 'shape', ()))} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and getattr(state[name], "shape", None) != tensor.shape
    ]


def _other_types(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Name integers where floats are expected: codes of another quantiser, which torch would take for weights."""
    return [
        f"{name} {state[name].dtype} for {tensor.dtype}"
        for name, tensor in own.items()
        if isinstance(state.get(name), Tensor) and state[name].is_floating_point() != tensor.is_floating_point()
    ]


def _changes(found: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {tuple(given.shape)} to {tuple(state[name].shape)}"
        for name, given in found.items()
        if isinstance(given, Tensor) and name in state and given.shape != state[name].shape
    ]


def _advice(found: Mapping[str, Any]) -> str:
    if any(part in name for name in found for part in _TRANSFORMERS):
        return (
            "Its names are those of Hugging Face transformers: load it there with from_pretrained, and give the model to "
            "fxquant.quantize"
        )
    return "Check MODEL, --num-classes, --img-size and --in-chans"


def _few(kind: str, names: list[str]) -> list[str]:
    """Return a phrase that counts `names` and gives the first three, or nothing where there are none."""
    return [f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"] if names else []
