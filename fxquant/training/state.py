"""Everything that changes while a model is trained, in one object that can be saved and restored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from timm.utils import ModelEmaV3
from torch import Tensor, fx
from torch.optim import AdamW

from fxquant.errors import CheckpointError
from fxquant.observers.base import Observer
from fxquant.training.options import TrainingOptions
from fxquant.training.oscillation import OscillationFreezer
from fxquant.training.parameter_groups import group_parameters
from fxquant.training.schedule import EpochPass, make_scheduler

Row = dict[str, Any]


@dataclass(eq=False)
class TrainingProgress:
    """
    How far a training has come: `index` whole passes, and `step` steps of the next one.

    sums: the numbers of these steps added up, by name.
    seconds: the time that these steps took.
    history: a row of numbers for each whole pass.
    """

    index: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)

    def add(self, numbers: Mapping[str, float], seconds: float) -> None:
        """Add one step: its numbers and the seconds it took."""
        self.step += 1
        self.seconds += seconds
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def finish_pass(self, row: Row) -> None:
        """Store the row of the pass that has ended, and begin the next pass."""
        self.index, self.step, self.seconds, self.sums = self.index + 1, 0, 0.0, {}
        self.history.append(row)

    @property
    def best(self) -> Row | None:
        """The first row with the highest accuracy; None before there is any."""
        measured = [row for row in self.history if row["best_of"] is not None]
        return max(measured, key=lambda row: float(row["best_of"]), default=None)

    @property
    def last_is_best(self) -> bool:
        """Say whether the last whole pass is the best one."""
        return self.best is not None and self.best is self.history[-1]


class State:
    """A prepared model whose scales are set, and everything that trains it."""

    def __init__(self, prepared: fx.GraphModule, options: TrainingOptions) -> None:
        self.prepared, self.options = prepared, options
        self.optimizer = AdamW(
            group_parameters(prepared, options.weight_decay), lr=options.lr, betas=options.betas, eps=options.eps
        )
        self.scheduler = make_scheduler(self.optimizer, options)
        self.ema = None if options.ema_decay is None else ModelEmaV3(prepared, options.ema_decay)
        self.freezer: OscillationFreezer | None = None
        if options.track_oscillations or options.freeze_threshold is not None:
            self.freezer = OscillationFreezer(prepared, options.freeze_threshold, options.oscillation_momentum)
        self.progress = TrainingProgress()

    @property
    def averaged(self) -> fx.GraphModule | None:
        """The moving average of the model, in eval mode."""
        return None if self.ema is None else self.ema.module

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters that are trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def begin_pass(self, now: EpochPass) -> float:
        """Set the learning rate of a pass and return it."""
        self.scheduler.step(now.lr_epoch)
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, epoch: int) -> None:
        """Change the model by its gradients. Bit widths stay as they are after `bits_ratio` of the epochs."""
        if epoch >= self.options.bits_ratio * self.options.epochs:
            for observer in self._observers():
                observer.hold_bits()
        self.optimizer.step()
        for observer in self._observers():
            observer.keep_in_range()
        if self.freezer is not None:
            self.freezer.step()
        if self.ema is not None:
            self.ema.update(self.prepared)

    def _observers(self) -> Iterator[Observer]:
        yield from (m for m in self.prepared.modules() if isinstance(m, Observer))

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain values."""
        return {
            "model": self.prepared.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.averaged is None else self.averaged.state_dict(),
            "freezer": None if self.freezer is None else self.freezer.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; raise `CheckpointError` for the state of another model."""
        load_model(self.prepared, saved["model"])
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(saved["ema"])
            if self.freezer is not None:
                self.freezer.load_state_dict(saved["freezer"])
            self.progress = TrainingProgress(**saved["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this training: {error}") from error


def load_model(prepared: fx.GraphModule, saved: Mapping[str, Tensor]) -> None:
    """Load the tensors of a prepared model; raise `CheckpointError` for those of another one."""
    try:
        prepared.load_state_dict(saved)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint does not fit this model: {reason}") from error


def describe_quantisers(prepared: fx.GraphModule) -> str:
    """Return how many operands are quantised to how many bits, and a digest of which operands and how."""
    found = [m for m in prepared.modules() if isinstance(m, Observer) and m.trained]
    bits = Counter(m.initial_bits for m in found)
    specs = "\n".join(sorted(f"{m.operand}: {m.spec!r}" for m in found))
    counts = ", ".join(f"{count} of {width} bit{'s' * (width > 1)}" for width, count in sorted(bits.items()))
    return f"{counts}, specs {hashlib.sha256(specs.encode()).hexdigest()[:12]}"
