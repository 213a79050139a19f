"""Drive a prepared model over calibration batches of which every rank of a process group has a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

from torch import Tensor, fx
from torch.distributed import broadcast_object_list
from torch.utils._pytree import tree_map_only

from fxquant.calibration.batch import Inputs, is_constant, run_batch
from fxquant.calibration.integer_softmax import RunIntegerSoftmax, has_integer_softmax
from fxquant.distributed import gather_objects, interleave, rank, together, world_size
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.progress import Bar


class SharedBatches:
    """
    Calibrate on several ranks, and get the statistics that one process would get from all batches.

    They are equal to the bit where the ranks compute alike. shown: the batches of this rank, on its device. Batches count in
    the order in which `fxquant.distributed.shard` deals them out: the first of rank 0, the first of rank 1, ..., the second of
    rank 0. Each rank runs its own batch, and then every rank absorbs the summaries of all ranks in that order.

    Some batches run on every rank: all of them if an observer does not summarise, as those of torch.ao, and the last one if
    an observer keeps something of it that depends on the batches before (power-of-two factors, integer softmax).
    """

    def __init__(self, prepared: fx.GraphModule, shown: Iterator[Inputs]) -> None:
        self.prepared, self.shown = prepared, shown
        observers = observers_of(prepared)
        recorders = [m for m in prepared.modules() if isinstance(m, InputRecorder)]
        self.watchers: list[Observer | InputRecorder] = [*observers, *recorders]
        self.apart = all(o.summarises for o in observers)
        self.integer = has_integer_softmax(prepared)
        self.last_alone = self.integer or any(o.reads_last for o in observers)
        self.count, self.found = 0, False
        self.held: Inputs | None = None  # this rank's part of the last round in which all were constant
        self.constant: list[int] = []  # the rank whose batch of it would have to do

    def run(self, bar: Bar) -> int:
        """Run all batches and return how many there were."""
        inputs, having = self._fetch()
        while having:
            following, next_having = self._fetch()
            alone = having[-1:] if self.last_alone and not next_having else []
            apart = having[: len(having) - len(alone)] if self.apart else []
            if apart:
                self._run_apart(inputs, apart)
            for source in having[len(apart) :]:
                self._run_everywhere(inputs, source, last=source in alone)
            bar.update(len(having))
            inputs, having = following, next_having
        if not self.apart or self.last_alone:
            adopt_first(self.prepared)
        return self.count

    def _fetch(self) -> tuple[Inputs | None, list[int]]:
        """
        Return the next inputs of this rank, and the ranks that have some to run.

        As of `varying`, constant ones are passed over where any rank has others, and the last one is run where none has.
        """
        while True:
            inputs, found = self._next()
            having = [source for source, constant in enumerate(found) if constant is False]
            if having:
                self.constant = []
                self.found = True
                return inputs, having
            passed = [source for source, constant in enumerate(found) if constant]
            if passed and not self.found:
                self.held, self.constant = inputs, passed[-1:]
            if not passed:
                having, self.constant = self.constant, []
                return self.held, having

    def _next(self) -> tuple[Inputs | None, list[bool | None]]:
        """Return the next inputs of this rank, and of each rank whether its own are constant, None where it has no more."""
        held: list[Inputs] = []

        def fetch() -> bool | None:
            inputs = next(self.shown, None)
            if inputs is None:
                return None
            held.append(tuple(t.clone() for t in inputs))  # what makes batches may use the memory again for the next
            return is_constant(inputs)

        found = together(fetch)
        return (held[0] if held else None), found

    def _run_apart(self, inputs: Inputs | None, ranks: Sequence[int]) -> None:
        """Run the batch of each of `ranks` there and absorb what all of them said."""
        said = together(lambda: self._summaries(inputs, ranks.index(rank())) if rank() in ranks else [])
        for source in ranks:
            for watcher, summaries in zip(self.watchers, said[source], strict=True):
                for summary in summaries:
                    watcher.replay(summary)
        self.count += len(ranks)

    def _summaries(self, inputs: Inputs | None, ahead: int) -> list[list[Any]]:
        """Return what each watcher was told by the batch of this rank, tensors on the CPU."""
        if inputs is None:
            raise RuntimeError("only ranks that have a batch are asked for it")
        for watcher in self.watchers:
            watcher.pending, watcher.ahead = [], ahead
        try:
            run_batch(self.prepared, inputs, self.count + ahead)
            pending: list[list[Any]] = [watcher.pending or [] for watcher in self.watchers]
        finally:
            for watcher in self.watchers:
                watcher.pending, watcher.ahead = None, 0
        said: list[list[Any]] = _to_cpu(pending)
        return said

    def _run_everywhere(self, inputs: Inputs | None, source: int, last: bool) -> None:
        """Run the batch of rank `source` on all of them."""
        sent = together(lambda: _to_cpu(inputs) if rank() == source else None)[source]
        device = self.watchers[0].batches.device
        if sent is None:
            raise RuntimeError("only ranks that have a batch are asked for it")
        batch = tuple(t.to(device) for t in sent)
        runner = RunIntegerSoftmax(self.prepared).run if last and self.integer else self.prepared
        together(lambda: run_batch(runner, batch, self.count))
        self.count += 1


def gather_batches(prepared: fx.GraphModule, shown: Iterable[Inputs]) -> list[Inputs]:
    """Return the batches of all ranks, in the order in which they were dealt out, on the device of `prepared`."""
    if world_size() == 1:
        return list(shown)
    like = next((t for t in (*prepared.parameters(), *prepared.buffers())), None)
    batches = interleave(together(lambda: [_to_cpu(inputs) for inputs in shown]))
    return batches if like is None else [tuple(t.to(like.device) for t in inputs) for inputs in batches]


def count_all(batches: Iterable[Any]) -> int | None:
    """Return how many batches all ranks have, None where that is not known."""
    counts = gather_objects(len(batches) if isinstance(batches, Sized) else None)
    known = [n for n in counts if n is not None]
    return sum(known) if len(known) == len(counts) else None


def observers_of(prepared: fx.GraphModule) -> list[Observer]:
    """Return the observers that batches change."""
    return [m for m in prepared.modules() if isinstance(m, Observer) and not m.frozen]


def adopt_first(prepared: fx.GraphModule) -> None:
    """Give all observers what they hold on rank 0: what every rank computed may differ in rounding between devices."""
    modules = [m for o in prepared.modules() if isinstance(o, Observer) for m in o.modules()]
    held = [[{name: b.cpu() for name, b in m.named_buffers(recurse=False)} for m in modules] if rank() == 0 else None]
    broadcast_object_list(held, 0)
    for module, buffers in zip(modules, held[0] or [], strict=True):
        for name, buffer in buffers.items():
            own = module._buffers[name]
            module._buffers[name] = buffer if own is None else buffer.to(own.device)


def _to_cpu(values: Any) -> Any:
    return tree_map_only(Tensor, Tensor.cpu, values)
