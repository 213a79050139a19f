"""Run the passes of a training: the steps of each, and the measurement after it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed import DistError
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fxquant.distillation.draws import random_of
from fxquant.distributed import rank, sum_over_ranks, world_size
from fxquant.errors import TrainingError
from fxquant.progress import Bar
from fxquant.training.epoch_images import Targets, TrainingData, load_batches
from fxquant.training.interruption import Interruption, Stop
from fxquant.training.objective import PARTS, Objective
from fxquant.training.refusals import refuse_unknown_classes
from fxquant.training.schedule import EpochPass
from fxquant.training.state import Row, State
from fxquant.training.state_file import StateFile
from fxquant.training.validation import Accuracy, measure_accuracy

_ACCURACIES = (("top-1", "top1"), ("of the average", "ema_top1"))
_MEANS = ("loss", *PARTS, "gradient_norm")  # of a step, over all ranks


@dataclass(eq=False)
class Run:
    """A training that is running. `state` is all that changes."""

    state: State
    data: TrainingData
    passes: Sequence[EpochPass]
    device: torch.device
    workers: int
    interruption: Interruption
    file: StateFile
    progress: bool = True
    _bar: Bar = field(init=False)
    _model: nn.Module = field(init=False)
    _objective: Objective = field(init=False)

    def __post_init__(self) -> None:
        """Wrap the model so that ranks share their gradients."""
        prepared = self.state.prepared
        self._objective = Objective(prepared, self.state.options)
        self._model = prepared
        if world_size() > 1:
            places = [self.device] if self.device.type == "cuda" else None
            self._model = DistributedDataParallel(prepared, device_ids=places)

    def bar(self) -> Bar:
        """Return the progress bar of all passes together, so that the time left is that of the whole training."""
        done = sum(now.steps for now in self.passes[: self.state.progress.index]) + self.state.progress.step
        total = sum(now.steps for now in self.passes)
        self._bar = Bar(total, "train", "step", done=done, shown=self.progress)
        return self._bar

    def write(self) -> None:
        """Write a checkpoint, on rank 0."""
        if rank() == 0:
            self.file.write(self.state.state_dict())

    def train_pass(self) -> None:
        """
        Run the remaining steps of the current pass.

        Raises `TrainingError` naming the step whose loss or gradient is not finite, before that step changes the model.
        """
        progress = self.state.progress
        now = self.passes[progress.index]
        self.state.begin_pass(now)
        self.state.prepared.train()
        pinned, ranks = self.device.type == "cuda", (rank(), world_size())
        start = time.perf_counter()
        try:
            for batch in load_batches(self.data, now, self.state.options, progress.step, ranks, self.workers, pinned):
                numbers = self._step(now, *batch)
                end = time.perf_counter()
                progress.add(numbers, end - start)
                start = end
                self._show(numbers)
                if numbers["asked"]:
                    raise Stop
                if self.file.due:
                    self.write()
        except RuntimeError as error:
            self._explain(error)
            raise

    def _step(self, now: EpochPass, images: Tensor, targets: Targets) -> dict[str, float]:
        """Change the model by one batch, and return the numbers of the step over all ranks."""
        state, options = self.state, self.state.options
        # Drop path draws from this, so that a step is the same whatever was drawn before.
        torch.manual_seed(int(random_of("step", options.seed, rank(), now.epoch, state.progress.step).randint(2**31)))
        labels = targets  # still where they were loaded: to look at them does not wait for the device
        images, targets = images.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
        state.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=options.bf16):
            logits = self._model(images)
        if isinstance(labels, Tensor):
            refuse_unknown_classes(labels, logits.shape[1])
        loss, parts = self._objective(logits, targets, self._objective.weight(now.epoch))
        torch.autograd.backward(loss)
        trained = [p for p in state.parameters if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        numbers = self._over_ranks(torch.stack((loss.detach(), *parts, norm)), len(images))
        self._refuse_non_finite(now, numbers)
        if options.clip_grad is not None:
            clip_grads_with_norm_(trained, options.clip_grad, norm)
        state.update(now.epoch)
        return numbers

    def _over_ranks(self, means: Tensor, images: int) -> dict[str, float]:
        """Return the means and sums of a step over all ranks, and whether any rank was asked to stop."""
        own = torch.cat((means.float(), means.new_tensor([images, self.interruption.asked]).float()))
        *found, count, asked = sum_over_ranks(own).tolist()
        average = {name: value / world_size() for name, value in zip(_MEANS, found, strict=True)}
        return {**average, "images": count, "asked": asked}

    def _refuse_non_finite(self, now: EpochPass, numbers: dict[str, float]) -> None:
        wrong = [f"{name.replace('_', ' ')} {numbers[name]}" for name in _MEANS if not math.isfinite(numbers[name])]
        if not wrong:
            return
        progress = self.state.progress
        kept = f"; {self.file.file} is from before" if self.file.file is not None and self.file.file.exists() else ""
        raise TrainingError(
            f"epoch {now.epoch}, step {progress.step + 1} of {now.steps}: {', '.join(wrong)}; a smaller learning rate or a "
            f"limit for the gradient may help{kept}"
        )

    def _show(self, numbers: dict[str, float]) -> None:
        progress = self.state.progress
        speed = progress.sums["images"] / max(progress.seconds, 1e-9)
        self._bar.note(loss=f"{numbers['loss']:.3f}", images_per_second=f"{speed:.0f}")
        self._bar.update()

    def say(self, row: Row) -> None:
        """Tell what the pass of this row came to, among how many."""
        top1 = "".join(f", {name} {row[key]:.2f} %" for name, key in _ACCURACIES if row[key] is not None)
        last = self.passes[-1]
        self._bar.say(
            f"epoch {row['epoch'] + row['crops']} of {last.epoch + last.crops}: loss {row['loss']:.4f}{top1}, "
            f"{row['images_per_second']:.0f} images per second"
        )

    def measure(self) -> Row:
        """Return the numbers of the pass that has just ended, accuracy on validation images included."""
        state, progress = self.state, self.state.progress
        now = self.passes[progress.index]
        means = {name: progress.sums[name] / progress.step for name in _MEANS}
        try:
            trained, averaged = self._accuracies()
        except RuntimeError as error:
            self._explain(error)
            raise
        share = None if state.freezer is None else state.freezer.share
        row = {
            "pass": progress.index,
            "epoch": now.epoch,
            "crops": now.crops,
            "lr": state.begin_pass(now),
            "lambda": self._objective.weight(now.epoch),
            **means,
            "oscillating": share and share.oscillating,
            "frozen": share and share.frozen,
            "top1": trained and trained.top1,
            "top5": trained and trained.top5,
            "ema_top1": averaged and averaged.top1,
            "ema_top5": averaged and averaged.top5,
            "images_per_second": progress.sums["images"] / max(progress.seconds, 1e-9),
            "seconds": progress.seconds,
        }
        row = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}
        return {**row, "best_of": row["top1"] if averaged is None else row["ema_top1"]}

    def _accuracies(self) -> tuple[Accuracy | None, Accuracy | None]:
        """Return the accuracy of the model and that of its moving average."""
        state, batches = self.state, self.data.evaluation
        if batches is None:
            return None, None

        def measured(model: nn.Module, name: str) -> Accuracy:
            return measure_accuracy(model, batches, self.device, name, self.interruption, self.progress)

        trained = measured(state.prepared, "validate")
        return trained, None if state.averaged is None else measured(state.averaged, "validate average")

    def _explain(self, error: RuntimeError) -> None:
        """Raise an error that says why ranks could not talk to each other; return if that is not what failed."""
        if world_size() == 1 or not (isinstance(error, DistError) or "gloo" in str(error)):
            return
        if self.interruption.asked:  # and so were the others, who are gone
            raise KeyboardInterrupt from error
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"rank {rank()} of {world_size()} lost the others, one of which has failed or does not answer: {reason}; "
            "--resume goes on from the last checkpoint"
        ) from error
