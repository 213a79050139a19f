"""Reconstruct a calibrated model block by block, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.calibration.run_batches import collect_batches
from fxquant.distributed import refuse_different
from fxquant.errors import CalibrationError, UnsupportedGraphError, expect_whole
from fxquant.graph.dataflow import after
from fxquant.graph.inputs import Batch
from fxquant.graph.meta import model_dtype
from fxquant.graph.stages import Stage, stage_of
from fxquant.graph.trained import is_trained
from fxquant.observers.base import Observer
from fxquant.progress import Bar
from fxquant.reconstruction.blocks import Block, features_of, find_blocks
from fxquant.reconstruction.evaluator import Evaluator
from fxquant.reconstruction.learned import Learned
from fxquant.reconstruction.losses import Errors
from fxquant.reconstruction.operands import Operands
from fxquant.reconstruction.options import ReconstructionOptions, make_options
from fxquant.reconstruction.train_block import Measure, Outcome, Trainer, images_held_out

Values = tuple[Tensor, ...]


def reconstruct(
    prepared: fx.GraphModule,
    batches: Iterable[Batch],
    progress: bool = True,
    *,
    seed: int = 0,
    **options: Any,
) -> fx.GraphModule:
    """
    Train weights and scales of a calibrated model so that each block gives what the float model's gives, and return it.

    batches: as for `fxquant.calibrate`, without labels or with labels that nobody reads. options: see `ReconstructionOptions`.
    One block after the other is trained on what the quantised blocks before it give. Its loss is that of GLF-Q: how far its
    output is from the float model's, and how far the feature is, which the float rest of the model makes of that output.
    Weights and biases are trained, and the scales of activations that have one for all values or for each head, through
    rounding as if it were not there. Where the loss on images held out does not fall, a block stays as it was.

    The weights of `prepared` itself stay the float model's. The observers hold what was found, from where `convert` takes it.
    Interrupted, it leaves `prepared` as it was. seed fixes the order of the images. All images, and of each three times the
    widest values between blocks, are held in memory.

    Raises `UnsupportedGraphError` for what is no graph from `fxquant.prepare`, `CalibrationError` where it was not calibrated
    and for fewer than two images, `ConfigError` for options that cannot be meant.
    """
    run_reconstruction(prepared, batches, make_options(options), seed, progress)
    return prepared


def run_reconstruction(
    prepared: fx.GraphModule, batches: Iterable[Batch], options: ReconstructionOptions, seed: int, progress: bool
) -> list[Outcome]:
    """Reconstruct as `reconstruct` does and return what became of each block."""
    _refuse_unfit(prepared)
    expect_whole("seed", seed, least=0)
    refuse_different(prepared)
    images = _joined(collect_batches(prepared, batches))
    blocks = find_blocks(prepared)
    with (
        _restored_on_failure(prepared),
        Bar(len(blocks) * options.iterations, "reconstruct", "step", shown=progress) as bar,
    ):
        return _Reconstruction(prepared, images, options, seed, bar).over(blocks)


class _Reconstruction:
    """One run over the blocks of a model; it holds what the float and the quantised part before a block give."""

    def __init__(
        self, prepared: fx.GraphModule, images: Values, options: ReconstructionOptions, seed: int, bar: Bar
    ) -> None:
        self.prepared, self.images, self.options, self.bar = prepared, images, options, bar
        self.inputs = [n for n in prepared.graph.nodes if n.op == "placeholder"]
        self.float = Evaluator(prepared)
        self.features = features_of(prepared)
        self.settled = set[Observer]()
        self.before: Values = ()  # what the quantised blocks so far give
        self.float_before: Values = ()
        trained, held = images_held_out(len(images[0]), options.held_out)
        self.trainer = Trainer(options, torch.tensor(trained), torch.tensor(held), seed, self._count)

    def over(self, blocks: list[Block]) -> list[Outcome]:
        """Reconstruct each block and return what became of it."""
        outcomes = []
        for index, block in enumerate(blocks):
            self.bar.rename(f"reconstruct {block.label}")
            outcome = self._reconstruct(block, index)
            self.bar.say(
                f"loss on images held out {outcome.before:.4g} -> {outcome.after:.4g}, "
                f"{'kept' if outcome.kept else 'not kept'}"
            )
            outcomes.append(outcome)
        return outcomes

    def _reconstruct(self, block: Block, index: int) -> Outcome:
        wanted = (*block.targets, *self._features_behind(block))
        references = self._all(self.float, block.source, wanted, self.float_before)
        known = [*self.inputs, *([block.source] if block.source else [])]
        learned = Learned.of(self.float.nodes_between(block.targets, known), self.settled)
        outcome = self.trainer.fit(block.label, learned, self._measure(block, learned, wanted, references), index)
        if outcome.kept:
            learned.store()
        self.settled |= learned.observers
        count = len(block.targets)
        self.float_before = references[:count]
        self.before = self._all(Evaluator(self.prepared, Operands()), block.source, block.targets, self.before)
        return outcome

    def _measure(self, block: Block, learned: Learned, wanted: tuple[fx.Node, ...], references: Values) -> Measure:
        """Return what computes the errors of some images at the results of a block and at the features behind it."""
        quantised, count = Evaluator(self.prepared, learned.operands()), len(block.targets)

        def measure(numbers: Tensor) -> Errors:
            known = self._known(block.source, self.before, numbers)
            found = quantised.values(block.targets, known)
            if len(wanted) > count:
                behind = self._known(block.targets[0], found, numbers, whole=True)
                found = (*found, *self.float.values(wanted[count:], behind))
            return Errors.of(found, [r[numbers] for r in references], count)

        return measure

    def _features_behind(self, block: Block) -> tuple[fx.Node, ...]:
        behind = after(block.targets) if len(block.targets) == 1 else set[fx.Node]()
        return tuple(f for f in self.features if f in behind)

    def _known(
        self, source: fx.Node | None, values: Values, numbers: Tensor, whole: bool = False
    ) -> dict[fx.Node, Tensor]:
        """Return the values of the inputs and of `source` for some images; whole: `values` are of these alone."""
        known = {node: value[numbers] for node, value in zip(self.inputs, self.images, strict=True)}
        if source is not None:
            known[source] = values[0] if whole else values[0][numbers]
        return known

    @torch.no_grad()
    def _all(self, evaluator: Evaluator, source: fx.Node | None, wanted: tuple[fx.Node, ...], values: Values) -> Values:
        """Return the values of nodes for all images."""
        parts = []
        for numbers in torch.arange(len(self.images[0])).split(self.options.batch_size):
            found = evaluator.values(wanted, self._known(source, values, numbers))
            for node, value in zip(wanted, found, strict=True):
                _refuse_unbatched(node, value, len(numbers))
            parts.append(found)
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def _count(self, loss: Tensor) -> None:
        self.bar.note(loss=f"{float(loss):.4g}")
        self.bar.update()


def _joined(batches: list[Values]) -> Values:
    """Return the images of all batches; each input has them along axis 0."""
    for index, inputs in enumerate(batches):
        if any(
            t.dim() == 0 or len(t) != len(inputs[0]) or t.shape[1:] != s.shape[1:] for t, s in _pairs(inputs, batches)
        ):
            found = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise CalibrationError(
                f"batch {index}: reconstruction draws images anew, and expected inputs with the images along axis 0, of one "
                f"size in all batches, found {found}"
            )
    joined = tuple(torch.cat(each) for each in zip(*batches, strict=True))
    if len(joined[0]) < 2:
        raise CalibrationError("reconstruction expected at least 2 images, of which it holds one out, found 1")
    return joined


def _pairs(inputs: Values, batches: list[Values]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(inputs, batches[0], strict=True)


def _refuse_unfit(prepared: object) -> None:
    found = stage_of(prepared) if isinstance(prepared, fx.GraphModule) else None
    if not isinstance(prepared, fx.GraphModule) or found is not Stage.PREPARED or is_trained(prepared):
        what = f"a graph at stage {found.value}" if found else f"a {type(prepared).__name__} that fxquant did not make"
        what = "one from fxquant.prepare_qat, which is trained as a whole" if found is Stage.PREPARED else what
        raise UnsupportedGraphError(f"reconstruct expected a calibrated graph from fxquant.prepare, found {what}")
    if model_dtype(prepared) is not torch.float32:
        raise UnsupportedGraphError(
            f"reconstruct expected a float32 model, found {model_dtype(prepared)}: use model.float()"
        )
    for observer in prepared.modules():
        if not isinstance(observer, Observer):
            continue
        observer.calculate_qparams()  # raises, naming the node
        if observer.noise.numel() or observer.integer_softmax:
            what = "a noisy bias" if observer.noise.numel() else "a softmax on integers"
            raise UnsupportedGraphError(
                f"node {observer.operand!r}: {what} cannot be reconstructed: choose a recipe without it"
            )


def _refuse_unbatched(node: fx.Node, value: object, count: int) -> None:
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != count:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UnsupportedGraphError(
            f"node {node.name!r}: reconstruction expected a tensor with the {count} images along axis 0, found {found}"
        )


@contextmanager
def _restored_on_failure(prepared: fx.GraphModule) -> Iterator[None]:
    """Let the observers hold what they held before where the block fails."""
    held = [(m, dict(m._buffers)) for m in prepared.modules() if isinstance(m, Observer)]
    try:
        yield
    except BaseException:
        for observer, buffers in held:
            observer._buffers.update(buffers)
        raise
