"""Make calibration images from the model alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.errors import CheckpointError, ConfigError, expect_whole
from fxquant.graph.fingerprint import fingerprint
from fxquant.progress import Bar
from fxquant.synthesis.image_objective import Losses, SynthesisObjective
from fxquant.synthesis.optimisation import SynthesisState, advance, begin, begin_batch, finish_batch
from fxquant.synthesis.synthesis_model import Size, SynthesisModel, read_subject
from fxquant.synthesis.synthesis_options import SynthesisOptions, make_options
from fxquant.synthesis.unfinished import SynthesisFile
from fxquant.tracing.capture import check_model

_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Progress:
    """
    How far a synthesis has come.

    step: the number of this step, of `steps`, counted over all batches of images.
    losses: the losses before this step.
    """

    step: int
    steps: int
    losses: Losses


@dataclass(frozen=True, eq=False)
class _Run:
    """Everything that stays the same from step to step."""

    n: int
    batch: int
    subject: SynthesisModel
    objective: SynthesisObjective
    bounds: tuple[Tensor, Tensor]
    lr: float
    device: torch.device

    @property
    def steps(self) -> int:
        return -(-self.n // self.batch) * self.objective.options.steps

    def steps_done(self, state: SynthesisState) -> int:
        return -(-len(state.done) // self.batch) * self.objective.options.steps + state.step


@torch.inference_mode(False)  # gradients are needed, wherever this is called
def synthesize(
    model: nn.Module,
    n: int = 32,
    *,
    size: Size = None,
    batch: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    on_step: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Tensor:
    """
    Return `n` images ``(n, C, H, W)`` made from the model alone, float32 in normalised space: a calibration batch without
    data.

    Images of Gaussian noise are optimised for two aims. In every attention block, the similarities between patches are to
    be spread as those of real images, whose foreground and background differ. And the model is to see a class in each
    image. This is PSAQ-ViT (Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers", ECCV 2022),
    with 2 rounds of 500 iterations. `options` are its constants, see `SynthesisOptions`. published=True does as the
    authors' code where it departs from the paper.

    model: a classifier in eval mode, or its graph from `fxquant.trace`; it is not changed.
    size: of the images, one number, (height, width) or (channels, height, width). None takes that of timm's data config.
    batch: the number of images optimised together, None for all. Fewer take less memory.
    seed: fixes every random choice, whatever the device.
    device: where to compute and where the result is; None takes the model's.
    dtype: what the model computes in, torch.float32 or torch.bfloat16.
    progress: whether to show how far it has come, with the losses.
    checkpoint: a file for the state, written every `save_every` seconds and when interrupted. Where it exists, the
    synthesis goes on from there, and gives the images that it would have given without the interruption.
    on_step: called after each step.

    Raises `ConfigError` for impossible arguments, `InputError` for a model without logits and for a size that it does not
    take, and `UnsupportedGraphError` for a model without attention. Raises `CheckpointError` for the checkpoint of another
    synthesis, naming what differs, and `CalibrationError` where the loss is not finite.
    """
    chosen = make_options(options)
    check_model(model)
    for name, value, least in (("n", n, 1), ("batch", n if batch is None else batch, 1), ("seed", seed, 0)):
        expect_whole(name, value, least)
    batch = n if batch is None else min(batch, n)
    if dtype not in _DTYPES:
        raise ConfigError(f"expected dtype torch.float32 or torch.bfloat16, got {dtype!r}")
    run = _set_up(model, n, batch, size, device, dtype, chosen)
    file = SynthesisFile(checkpoint, _settings(run, seed) if checkpoint is not None else {}, save_every)
    state = file.read(run.device)
    if state is None:
        state = begin(run.subject.shape, seed, run.device)
    return _optimise(run, state, file, progress, on_step).done


def _set_up(
    model: nn.Module,
    n: int,
    batch: int,
    size: Size,
    device: torch.device | str | None,
    dtype: torch.dtype,
    options: SynthesisOptions,
) -> _Run:
    subject = read_subject(model, batch, size, options)
    graph = subject.contexts
    tensors = (*model.parameters(), *model.buffers())
    place = torch.device(device) if device is not None else next((t.device for t in tensors), torch.device("cpu"))
    graph.gm.to(device=place, dtype=dtype)
    lr = options.lr if options.lr is not None else 0.25 if graph.windowed else 0.20
    return _Run(n, batch, subject, SynthesisObjective(graph, options, dtype), subject.bounds(place), lr, place)


def _optimise(
    run: _Run, state: SynthesisState, file: SynthesisFile, progress: bool, on_step: Callable[[Progress], None] | None
) -> SynthesisState:
    options = run.objective.options
    with Bar(run.steps, "synthesize", "step", done=run.steps_done(state), shown=progress) as bar:
        try:
            while True:
                if state.step == options.steps:
                    state = finish_batch(state)
                left = run.n - len(state.done)
                if not left:
                    break
                if not len(state.images):
                    state = begin_batch(state, min(run.batch, left), run.subject.contexts.classes, options)
                state, losses = advance(state, run.objective, run.lr, run.bounds)
                bar.note(**_shown(losses))
                bar.update()
                file.write_now_and_then(state)
                if on_step is not None:
                    on_step(Progress(run.steps_done(state), run.steps, losses))
        except CheckpointError:
            raise  # what cannot be written will not be written now
        except BaseException:
            file.write(state)
            raise
        file.write(state)
    return state


def _settings(run: _Run, seed: int) -> dict[str, Any]:
    """Return what the images depend on, as JSON gives it back. The device is not part of it."""
    objective = run.objective
    found = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(objective.options).items()}
    return {
        "model": fingerprint(run.subject.source),
        "n": run.n,
        "batch": run.batch,
        "size": list(run.subject.shape),
        "seed": seed,
        "dtype": str(objective.dtype).removeprefix("torch."),
        **found,
        "steps": objective.options.steps,
        "mean": list(run.subject.mean),
        "std": list(run.subject.std),
    }


def _shown(losses: Losses) -> dict[str, str]:
    return {
        "loss": f"{losses.total:.3f}",
        "entropy": f"{losses.entropy:.3f}",
        "ce": f"{losses.cross_entropy:.3f}",
        "tv": f"{losses.total_variation:.1f}",
    }
