"""What a batch means: which of its values are which inputs of a model. Whatever takes batches asks here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxquant.errors import InputError
from fxquant.graph.stages import stage_of

T = TypeVar("T")
Batch = Tensor | Sequence[Any] | Mapping[str, Any]
Bound = dict[str, Any]

_TARGETS = ("label", "labels", "label_ids", "target", "targets")
_TARGET_ENDINGS = ("_label", "_labels", "_target", "_targets")
_CHANNELS = (1, 3, 4)
_ORDERED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Arguments:
    """
    The arguments that a model takes, and the rule by which a batch gives them.

    n is the number of arguments that the model requires, at least one. A graph that fxquant traced takes tensors alone, and
    requires each of its inputs. A batch is one of these:

    - a tensor: the first input, of a model that requires no other;
    - a tuple or list ``(input_1, ..., input_n, ...)``: the inputs in order. What follows them are targets, file names and the
      like, which nothing reads. With n = 1 that is ``(images, targets)``;
    - ``((input_1, ..., input_n), targets)`` or ``({...}, targets)``: the same, with the inputs in a batch of their own;
    - a mapping, such as a dictionary or what a processor of Hugging Face returns: the inputs by the names of the arguments.
      Names such as ``labels`` or ``target`` are targets unless the model requires them, and texts and None are passed over.
      Any other name that is not an argument is an error, because an input would be lost.

    Values that are no tensors belong to the model that is traced, and its graph has them as they were in the example: batches
    of a graph may hold them where the model takes them, and they are not looked at.

    An example of what a model is called with is a batch, too. A tuple or list that fits the model's arguments in order,
    optional ones too, is meant as these.

    Everything raises `InputError` for what is none of these: numpy arrays, images that are not stacked to one tensor, and
    batches in which an input is missing.
    """

    owner: str
    signature: inspect.Signature
    traced: bool = False

    @classmethod
    def of(cls, model: Callable[..., Any]) -> Arguments:
        """Return the arguments of a model, of a graph, or of a function."""
        forward = model.forward if isinstance(model, nn.Module) else model
        traced = isinstance(model, fx.GraphModule) and stage_of(model) is not None
        return cls(type(model).__name__, inspect.signature(forward), traced)

    @property
    def names(self) -> list[str]:
        """The names of all arguments that can be given, ``*`` ones too."""
        return [p.name for p in self._parameters if p.kind is not Parameter.VAR_KEYWORD]

    @property
    def required(self) -> list[str]:
        """The names of the arguments that have no default value."""
        single = (*_ORDERED, Parameter.KEYWORD_ONLY)
        return [p.name for p in self._parameters if p.kind in single and p.default is Parameter.empty]

    def bind(self, batch: Batch) -> Bound:
        """Return the arguments that `batch` gives, by name."""
        return self.split(batch)[0]

    def split(self, batch: Batch) -> tuple[Bound, Any]:
        """Return the arguments that `batch` gives, by name, and the targets next to them, None where there are none."""
        _refuse_array(batch)
        if isinstance(batch, Tensor):
            return self._in_order([batch]), None
        if isinstance(batch, Mapping):
            return self._by_name(batch)
        if isinstance(batch, tuple | list) and batch:
            return self._of_sequence(list(batch))
        raise InputError(f"expected {self._expected}, found {_kind(batch)}")

    def bind_example(self, example: Any) -> Bound:
        """Return the arguments that `example`, a batch or the arguments of a call in order, gives by name."""
        if not isinstance(example, Tensor | Mapping | tuple | list) or not _holds_input(example):
            kinds = ", ".join(_kind(v) for v in example) if isinstance(example, tuple | list) else ""
            raise InputError(
                "expected a tensor, a tuple of arguments or a mapping by their names, with a tensor in it as example inputs, "
                f"found {_kind(example)}{kinds and f' of {kinds}'}"
            )
        if not isinstance(example, tuple | list) or self.traced or self._is_batch(example):
            return self.bind(example)
        try:
            return dict(self.signature.bind(*example).arguments)
        except TypeError as error:
            raise InputError(self._misfit(str(error))) from error

    def inputs(self, bound: Bound) -> tuple[Any, ...]:
        """Return the values of `bound` that are inputs of a graph, in order: those with a tensor in them."""
        values: list[Any] = []
        for parameter in self._parameters:
            if parameter.name in bound:
                value = bound[parameter.name]
                values += value if parameter.kind is Parameter.VAR_POSITIONAL else [value]
        return tuple(value for value in values if holds_tensor(value))

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the inputs that `batch` gives to a graph, in the order in which it takes them."""
        bound = self.bind(batch)
        for name, value in bound.items():
            if not isinstance(value, Tensor):
                raise InputError(f"input {name!r}: expected a tensor, found {_kind(value)}")
        return tuple(bound[name] for name in self.names)

    def call(self, bound: Bound) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments of a call with `bound`."""
        ordered = {name: bound[name] for name in self.names if name in bound}
        arguments = inspect.BoundArguments(self.signature, ordered)
        return arguments.args, arguments.kwargs

    def positional(self, bound: Bound) -> tuple[Any, ...]:
        """Return the arguments of a call without keywords: those left out before the last one have their default values."""
        last = max((i for i, p in enumerate(self._parameters) if p.name in bound), default=-1)
        before = self._parameters[: last + 1]
        alone = [p.name for p in before if p.kind is Parameter.KEYWORD_ONLY and p.name in bound]
        if alone:
            raise InputError(
                f"{self.owner} takes {', '.join(alone)} by keyword only: wrap it in a module that takes them in order"
            )
        values: list[Any] = []
        for parameter in before:
            if parameter.kind is Parameter.VAR_POSITIONAL:
                values += bound.get(parameter.name, ())
            elif parameter.kind in _ORDERED:
                values.append(bound.get(parameter.name, parameter.default))
        return tuple(values)

    @property
    def _parameters(self) -> list[Parameter]:
        return list(self.signature.parameters.values())

    @property
    def _expected(self) -> str:
        count = len(self.required)
        tuples = f"a tuple of the {count} inputs" if count > 1 else "an (images, targets) pair"
        return f"a tensor of images, {tuples} or a mapping by the names of the arguments ({', '.join(self.names)})"

    def _is_batch(self, example: Sequence[Any]) -> bool:
        """Say whether a tuple is no list of arguments: it holds them in a mapping, or has targets behind them."""
        first, ordered = example[0], [p for p in self._parameters if p.kind in _ORDERED]
        if isinstance(first, Mapping):
            return any(name in first for name in self.names)
        if any(p.kind is Parameter.VAR_POSITIONAL for p in self._parameters):
            return False
        return any(isinstance(v, Tensor | str) for v in example[len(ordered) :])

    def _misfit(self, reason: str) -> str:
        return f"the inputs do not fit the arguments ({', '.join(self.names)}) of {self.owner}: {reason}"

    def _of_sequence(self, values: list[Any]) -> tuple[Bound, Any]:
        count = max(1, len(self.required))
        if isinstance(values[0], Mapping | tuple | list):
            bound, targets = self.split(values[0])
            return bound, values[1] if len(values) > 1 else targets
        if count == 1:
            _refuse_loose_images(values)
        if self.traced and not all(isinstance(v, Tensor) for v in values[:count]):
            values = [v for v in values if not isinstance(v, int | float | str | None)]
        return self._in_order(values[:count]), values[count] if len(values) > count else None

    def _in_order(self, values: Sequence[Any]) -> Bound:
        for value in values:
            _refuse_array(value)
        if not any(isinstance(v, Tensor) for v in values):
            raise InputError(f"expected {self._expected}, found {', '.join(map(_kind, values)) or 'no inputs'}")
        rest = next((p for p in self._parameters if p.kind is Parameter.VAR_POSITIONAL), None)
        names = [p.name for p in self._parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        if not names:
            if rest is None:
                raise InputError(self._misfit("it takes none in order"))
            return {rest.name: tuple(values)}
        return self._complete(dict(zip(names, values, strict=False)))

    def _by_name(self, batch: Mapping[str, Any]) -> tuple[Bound, Any]:
        bound, targets, known = Bound(), None, self.names
        for name, value in batch.items():
            if _is_target(name) and name not in self.required:
                targets = value if targets is None else targets
            elif name in known:
                _refuse_array(value)
                bound[name] = value
            elif not self._passed_over(value):
                raise InputError(
                    f"{name!r} is no argument of {self.owner}, which takes {', '.join(known)}: name the inputs as it does, "
                    "and leave out what it does not read"
                )
        return self._complete(bound), targets

    def _passed_over(self, value: Any) -> bool:
        kinds = (int, float, str, type(None)) if self.traced else (str, type(None))
        return all(isinstance(leaf, kinds) for leaf in tree_leaves(value))

    def _complete(self, bound: Bound) -> Bound:
        missing = [name for name in self.required if name not in bound]
        if missing:
            plural = "s" if len(missing) > 1 else ""
            names = ", ".join(map(repr, missing))
            raise InputError(self._misfit(f"missing {'a ' if not plural else ''}required argument{plural}: {names}"))
        if not holds_tensor(bound):
            raise InputError(f"expected {self._expected}, found no tensor for any of them")
        return bound


def holds_tensor(value: Any) -> bool:
    """Say whether `value` is a tensor, or a container with one in it."""
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def moved(values: T, device: torch.device | str, dtype: torch.dtype) -> T:
    """Return `values`, tensors or containers of them, on `device`, and those of floating point in `dtype`."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    result: T = tree_map_only(Tensor, move, values)
    return result


def batch_size(inputs: Sequence[Any]) -> int:
    """Return how many images `inputs` hold: the size of the first axis of the first tensor that has one."""
    return next((int(t.shape[0]) for t in inputs if isinstance(t, Tensor) and t.dim()), 1)


def has_batch(value: Any, inputs: Sequence[Any]) -> bool:
    """Say whether `value`, one of `inputs`, has a row for each image; masks and sizes that all images share have not."""
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch_size(inputs)


def _holds_input(example: Any) -> bool:
    return holds_tensor(list(example.values()) if isinstance(example, Mapping) else example)


def _is_target(name: object) -> bool:
    return isinstance(name, str) and (name.lower() in _TARGETS or name.lower().endswith(_TARGET_ENDINGS))


def _refuse_array(value: Any) -> None:
    if isinstance(value, np.ndarray):
        raise InputError("expected tensors, found a numpy array: give torch.from_numpy(array)")


def _refuse_loose_images(values: Sequence[Any]) -> None:
    """Refuse a list of images ``(C, H, W)``, which looks like images and targets."""
    images = [v for v in values if isinstance(v, Tensor) and v.dim() == 3 and v.shape[0] in _CHANNELS]
    if len(images) == len(values) > 1:
        raise InputError(
            f"expected a batch of images (B, C, H, W), found a list of {len(images)} images of shape "
            f"{tuple(images[0].shape)}: give torch.stack(images)"
        )


def _kind(value: object) -> str:
    return "numpy array" if isinstance(value, np.ndarray) else type(value).__name__
