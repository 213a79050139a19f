"""Drive a prepared model over the calibration batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from fxquant.calibration.batch import Inputs, arguments_of_batch, on_device, run_batch, varying
from fxquant.calibration.integer_softmax import RunIntegerSoftmax, has_integer_softmax
from fxquant.calibration.shared_batches import SharedBatches, count_all, gather_batches
from fxquant.distributed import rank, together, world_size
from fxquant.errors import CalibrationError
from fxquant.graph.inputs import Batch, Bound
from fxquant.progress import Bar


def run_batches(prepared: fx.GraphModule, batches: Iterable[Batch], progress: bool) -> int:
    """
    Run `prepared` on each batch without gradients and return how many there were.

    In a process group the batches of all ranks are meant: see `SharedBatches`.
    """
    alone = world_size() == 1
    total = count_all(batches) if not alone else len(batches) if isinstance(batches, Sized) else None
    with Bar(total, "calibrate", "batch", shown=progress) as bar, torch.no_grad():
        shown = on_device(prepared, batches)
        count = _run_alone(prepared, varying(shown), bar) if alone else SharedBatches(prepared, shown).run(bar)
    _refuse_nothing(count)
    return count


def take_first(model: nn.Module, batches: Iterator[Batch]) -> tuple[list[Batch], Bound | None]:
    """
    Return the first of `batches`, if there is one, and the arguments of `model` in the first that any rank has.

    The ranks are asked in order.
    """
    taken: list[Batch] = []

    def take() -> Bound | None:
        taken.extend(itertools.islice(batches, 1))
        bound = arguments_of_batch(model, taken[0], rank()) if taken else None
        return bound if world_size() == 1 else tree_map_only(Tensor, Tensor.cpu, bound)

    return taken, next((bound for bound in together(take) if bound is not None), None)


def collect_batches(prepared: fx.GraphModule, batches: Iterable[Batch]) -> list[Inputs]:
    """Return the inputs of all batches, in a process group those of all ranks, as `prepared` takes them."""
    collected = list(varying(gather_batches(prepared, on_device(prepared, batches))))
    _refuse_nothing(len(collected))
    for index, inputs in enumerate(collected):
        empty = next((t for t in inputs if t.numel() == 0), None)
        if empty is not None:
            raise CalibrationError(
                f"calibration batch {index}: expected images, found an empty batch of shape {tuple(empty.shape)}"
            )
    return collected


def _run_alone(prepared: fx.GraphModule, shown: Iterator[Inputs], bar: Bar) -> int:
    count, integer = 0, has_integer_softmax(prepared)
    for inputs, last in _marking_last(shown) if integer else zip(shown, itertools.repeat(False), strict=False):
        run_batch(RunIntegerSoftmax(prepared).run if last else prepared, inputs, count)
        count += 1
        bar.update()
    return count


def _refuse_nothing(count: int) -> None:
    if count == 0:
        raise CalibrationError("expected at least one calibration batch, found none: the iterable is empty or used up")


def _marking_last(batches: Iterable[Inputs]) -> Iterator[tuple[Inputs, bool]]:
    """Yield each batch, and whether it is the last; a copy, as what makes them may use the memory again for the next."""
    held: Inputs | None = None
    for batch in batches:
        if held is not None:
            yield held, False
        held = tuple(t.clone() for t in batch)
    if held is not None:
        yield held, True
