"""Trains in a process that torchrun started; rank 1 is killed once. Run by test_distributed.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxquant.distributed import gather_objects, initialise, rank, world_size
from fxquant.training import TrainingOptions, train
from fxquant.training.state import State
from tests.support.trained_models import MemoryImages, memory_data, prepared_vit

OPTIONS = TrainingOptions(epochs=4, batch_size=6, ema_decay=0.8)


class Deadly(MemoryImages):
    """Ends this process in the second epoch."""

    def __init__(self, die: Callable[[], None]) -> None:
        super().__init__()
        self.die = die

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.epoch == 1:
            self.die()
        return super().__getitem__(index)


def keep_gradients(kept: list[dict[str, Tensor]]) -> None:
    """Let the gradients of each step be added to `kept`."""
    update = State.update

    def noting(self: State, epoch: int) -> None:
        named = self.prepared.named_parameters()
        kept.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        update(self, epoch)

    State.update = noting  # type: ignore[method-assign]


def main(folder: Path) -> None:
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    gradients: list[dict[str, Tensor]] = []
    keep_gradients(gradients)
    with initialise("cpu", timedelta(seconds=60)):

        def die() -> None:
            torch.save(gradients, folder / "first.pt")
            os.kill(os.getpid(), signal.SIGKILL)

        dataset = Deadly(die) if first and rank() == 1 else MemoryImages()
        prepared = prepared_vit(0.0, norm=True)
        with torch.no_grad():
            prepared.get_parameter("vit.head.bias").add_(rank())  # what rank 0 has counts
        data = memory_data(dataset, rank(), world_size())
        own = folder if rank() == 0 else folder / "on another machine"
        result = train(prepared, data, OPTIONS, folder=own, checkpoint_minutes=0, progress=False)
        models: list[Any] = gather_objects(result.prepared.state_dict())
        assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
        if rank() == 0:
            torch.save({"steps": len(gradients), "history": result.history}, folder / "second.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
