"""Quantisation-aware training of a prepared model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxquant import distributed
from fxquant.errors import CheckpointError, ConfigError, InputError
from fxquant.files import duplicate, new_folder, refuse_folder
from fxquant.training.epoch_images import TrainingData
from fxquant.training.initialise import initialise_scales
from fxquant.training.interruption import Interruption, Stop
from fxquant.training.logs import Logs, refuse_without_tensorboard
from fxquant.training.options import TrainingOptions
from fxquant.training.refusals import refuse_graph, refuse_idle_budget
from fxquant.training.run import Run
from fxquant.training.schedule import EpochPass, plan_passes
from fxquant.training.state import Row, State, describe_quantisers
from fxquant.training.state_file import StateFile

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """
    The result of a training.

    prepared: the model, which was trained in place, in eval mode.
    averaged: its moving average, or None where none was kept.
    history: a row of numbers for each pass, by the names of `fxquant.training.logs.COLUMNS`.
    """

    prepared: fx.GraphModule
    averaged: fx.GraphModule | None
    history: tuple[Row, ...]


@torch.inference_mode(False)  # gradients are needed, wherever this is called
def train(
    prepared: fx.GraphModule,
    data: TrainingData,
    options: TrainingOptions | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] = False,
    checkpoint_minutes: float = 10.0,
    identity: Mapping[str, Any] | None = None,
    workers: int = 0,
    progress: bool = True,
    tensorboard: bool = False,
) -> TrainingResult:
    """
    Train `prepared`, a graph from `fxquant.prepare_qat`, in place on its device; `fxquant.convert` then gives the int8
    model.

    With the default options this is VVTQ (Huang et al., "Quantization Variation: A New Perspective on Training Transformers
    with Low-Bit Precision", TMLR 2024). Step sizes are learned, and a regulariser pulls weights to the middle of their
    bins. Where `data` has soft labels, it sees several crops of each image with a teacher's answer to each.

    data: the images; ``data.calibration`` sets the first scales of the activations.
    folder: where checkpoint.pt, checkpoint.previous.pt, best.pt (by validation top-1) and log.csv are kept. None keeps
    nothing.
    resume: True goes on from the folder's checkpoint if there is one, a path goes on from that file.
    checkpoint_minutes: the time between two checkpoints. One more is written after each pass, and when SIGINT or SIGTERM
    asks to stop, which raises KeyboardInterrupt.
    identity: what else tells this training from another, by name.
    workers: the number of processes that load images; 0 loads in this one.
    progress: whether to show how far it has come; where there is no terminal, by a line per pass and every few minutes.

    A resumed training on one device ends with the weights of one that was not interrupted, bit for bit, where the device's
    arithmetic repeats itself. On a GPU it does not with the regulariser: its sums over codes (`index_add_`) are in no fixed
    order.

    In a group of processes (`fxquant.distributed`) each rank calls this with its own `data`. Gradients are averaged, and
    rank 0 alone reads and writes files. The caller's random state stays as it was.

    Raises `UnsupportedGraphError` for any other graph and `ConfigError` for options that do not fit. Raises
    `CheckpointError` for a folder that holds another training, or one that is not to be resumed. Raises `TrainingError`
    naming the step where the loss or a gradient is not finite, `InputError` for a label that the model has no class for,
    and what `fxquant.calibrate` and the data raise.
    """
    options = options or TrainingOptions()
    _refuse(prepared, data, options, folder, resume, checkpoint_minutes, tensorboard)
    place = None if folder is None else Path(folder)
    passes = _plan(data, options)
    file = _file(place, _settings(prepared, data, options, identity or {}), checkpoint_minutes)
    saved = distributed.from_first(lambda: _read(file, place, resume))  # the others may not see the folder
    device = next(prepared.parameters()).device
    with contextlib.ExitStack() as stack:
        if place is not None:
            distributed.from_first(lambda: stack.enter_context(new_folder(place)))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        initialise_scales(prepared, data.calibration, options.seed, progress)
        state = State(prepared, options)
        _take_up(state, file, saved)
        logs = Logs(place if distributed.rank() == 0 else None, tensorboard, state.progress.index)
        interruption = Interruption()
        run = Run(state, data, passes, device, workers, interruption, file, progress)
        try:
            with interruption.listening():
                _go_on(run, logs)
        finally:
            logs.close()
    prepared.eval()
    return TrainingResult(prepared, state.averaged, tuple(state.progress.history))


def _go_on(run: Run, logs: Logs) -> None:
    """Run all passes that are left."""
    state = run.state
    if state.progress.history:
        logs.write_table(state.progress.history)  # the training may have been killed before it could
    try:
        with run.bar():
            while state.progress.index < len(run.passes):
                run.train_pass()
                row = run.measure()
                state.progress.finish_pass(row)
                run.say(row)
                run.write()
                if distributed.rank() == 0:
                    _keep_best(state, run.file.file)
                    logs.write(state.progress.history)
    except Stop:
        run.write()
        raise


def refuse_run(
    prepared: fx.GraphModule,
    data: TrainingData,
    options: TrainingOptions,
    folder: str | os.PathLike[str],
    *,
    resume: bool | str | os.PathLike[str] = False,
    checkpoint_minutes: float = 10.0,
    identity: Mapping[str, Any] | None = None,
    tensorboard: bool = False,
) -> None:
    """Raise what `train` with these arguments raises before it looks at an image, for who has work to do before."""
    _refuse(prepared, data, options, folder, resume, checkpoint_minutes, tensorboard)
    _plan(data, options)
    place = Path(folder)
    file = _file(place, _settings(prepared, data, options, identity or {}), checkpoint_minutes)
    distributed.from_first(lambda: _read(file, place, resume) and None)
    distributed.from_first(lambda: refuse_folder(place))


def _refuse(
    prepared: fx.GraphModule,
    data: TrainingData,
    options: TrainingOptions,
    folder: str | os.PathLike[str] | None,
    resume: bool | str | os.PathLike[str],
    minutes: float,
    tensorboard: bool,
) -> None:
    refuse_graph(prepared)
    if not isinstance(data, TrainingData):
        raise InputError(f"train expected fxquant.training.TrainingData, found {type(data).__name__}")
    refuse_idle_budget(prepared, options)
    if folder is None and resume:
        raise ConfigError("there is nothing to resume without a folder that the training is kept in")
    if not minutes >= 0:
        raise ConfigError(f"checkpoint_minutes must not be negative, got {minutes}")
    if tensorboard:
        refuse_without_tensorboard()


def _plan(data: TrainingData, options: TrainingOptions) -> tuple[EpochPass, ...]:
    return plan_passes(options, len(data.images), data.several is not None, distributed.world_size())


def _file(place: Path | None, settings: dict[str, Any], minutes: float) -> StateFile:
    return StateFile(None if place is None else place / CHECKPOINT, settings, 60 * minutes)


def _settings(
    prepared: fx.GraphModule, data: TrainingData, options: TrainingOptions, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the weights depend on. The device and the number of ranks are not part of it."""
    return {
        **identity,
        "quantisers": describe_quantisers(prepared),
        "images": len(data.images),
        "several_crops": data.several is not None,
        **data.facts,
        **asdict(options),
    }


def _take_up(state: State, file: StateFile, saved: dict[str, Any] | None) -> None:
    """Load the checkpoint that was asked for, or the one written before torchrun restarted this process."""
    if saved is None:
        return
    state.load_state_dict(saved)
    if distributed.rank() == 0 and not state.progress.step:
        _keep_best(state, file.file)  # unless the training was killed before it could


def _read(file: StateFile, place: Path | None, resume: bool | str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the state to go on from, or None where the training starts afresh."""
    if file.file is None or place is None:
        return None
    refuse_held(place, resume)
    if isinstance(resume, bool) or (_restarted() and file.file.exists()):
        return file.read() if file.file.exists() else None
    return file.read(Path(resume))


def refuse_held(place: Path, resume: object) -> None:
    """
    Raise `CheckpointError` where a folder holds a training that is not to be resumed; one that torchrun restarts goes on.
    """
    if resume is False and not _restarted() and (place / CHECKPOINT).exists():
        raise CheckpointError(
            f"{str(place)!r} holds a training already: --resume goes on with it; or choose another folder, or delete it"
        )


def _restarted() -> bool:
    """Say whether torchrun started this process in the place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _keep_best(state: State, checkpoint: Path | None) -> None:
    """Copy the checkpoint to best.pt if its last pass is the best one."""
    if checkpoint is not None and state.progress.last_is_best:
        duplicate(checkpoint, checkpoint.with_name(BEST))
