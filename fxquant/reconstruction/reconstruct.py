"""Reconstruct a calibrated model block by block, without labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import fx

from fxquant.calibration.restored import held, put_back, restored_on_failure
from fxquant.calibration.run_batches import collect_batches
from fxquant.distributed import from_first, only_first, refuse_different
from fxquant.errors import CheckpointError, expect_path, expect_whole
from fxquant.files import refuse_unwritable
from fxquant.graph.fingerprint import fingerprint
from fxquant.graph.inputs import Batch
from fxquant.observers.base import Observer
from fxquant.progress import Bar
from fxquant.reconstruction.blocks import find_blocks
from fxquant.reconstruction.found_file import ReconstructionFile, found_by, put_found
from fxquant.reconstruction.image_set import digest, joined
from fxquant.reconstruction.over_blocks import BlockRun
from fxquant.reconstruction.reconstruction_options import ReconstructionOptions, make_options
from fxquant.reconstruction.train_block import BlockOutcome
from fxquant.reconstruction.unfit import refuse_unfit


def reconstruct(
    prepared: fx.GraphModule,
    batches: Iterable[Batch],
    progress: bool = True,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> fx.GraphModule:
    """
    Train the quantised blocks of a calibrated model to give what those of the float model give, and return it.

    batches: as for `fxquant.calibrate`; labels are not read. options: those of `ReconstructionOptions`, by name. One block
    after the other is trained, on what the quantised blocks before it give. Its loss is that of GLF-Q: how far its output is
    from the float model's, and how far the feature is that the float rest of the model makes of it. Weights, biases and the
    scales of activations are trained, and rounding passes gradients as it is. Operands without a single even step, such as
    those of twin quantisers, keep what they have. A block whose loss on images held out does not fall stays as it was.

    The weights of `prepared` stay the float model's. Its observers hold what was found, and `convert` takes it from there.
    Interrupted, it leaves `prepared` as it was. checkpoint: a file that keeps the blocks that are done; the same call goes on
    from there. seed fixes the order of images. All images are held in memory, and of each three times the widest values
    between blocks.

    In a process group every rank calls this, with its own share of the batches, as for `fxquant.calibrate`. Each iteration is
    shared out, and all get the same result.

    Raises `UnsupportedGraphError` for what is no graph from `fxquant.prepare`, `CalibrationError` where it was not calibrated
    and for fewer than two images, `ConfigError` for options that cannot be meant, `CheckpointError` for a file that cannot be
    used.
    """
    run_reconstruction(prepared, batches, make_options(options), checkpoint, seed, progress)
    return prepared


def run_reconstruction(
    prepared: fx.GraphModule,
    batches: Iterable[Batch],
    options: ReconstructionOptions,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[BlockOutcome]:
    """Reconstruct as `reconstruct` does and return what became of each block."""
    refuse_unfit(prepared)
    expect_whole("seed", seed, least=0)
    if checkpoint is not None:
        refuse_unwritable(expect_path(checkpoint, CheckpointError))
    refuse_different(prepared)
    images = joined(collect_batches(prepared, batches))
    settings = asdict(options) | {"seed": seed, "model": fingerprint(prepared), "images": digest(images)}
    file = ReconstructionFile(checkpoint, settings)
    outcomes, found = from_first(file.read)

    def keep(outcomes: Sequence[BlockOutcome], observers: set[Observer]) -> None:
        only_first(file.write, outcomes, found_by(prepared, observers))

    blocks = find_blocks(prepared)
    total, done = len(blocks) * options.iterations, len(outcomes) * options.iterations
    with restored_on_failure(prepared), Bar(total, "reconstruct", "step", done=done, shown=progress) as bar:
        run, first, results = (
            BlockRun(prepared, images, options, seed, outcomes, keep),
            held(prepared),
            blocks[-1].targets,
        )
        before = run.whole_error(results)
        put_found(prepared, found)
        outcomes, after = run.over(blocks, bar), run.whole_error(results)
        if after > before:
            put_back(first)
            bar.say(f"held-out error of the whole model {before:.4g} -> {after:.4g}: all blocks reverted")
            return [replace(outcome, kept=False) for outcome in outcomes]
        return outcomes
