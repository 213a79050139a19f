"""Go through the blocks of a model: what the float and the quantised part before each give, and what it is trained to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph.dataflow import after, is_size
from fxquant.observers.base import Observer
from fxquant.progress import Bar
from fxquant.reconstruction.block_loss import Errors
from fxquant.reconstruction.blocks import Block, features_of
from fxquant.reconstruction.evaluator import Evaluator
from fxquant.reconstruction.image_set import Values, split
from fxquant.reconstruction.learned_block import LearnedBlock
from fxquant.reconstruction.reconstruction_options import ReconstructionOptions
from fxquant.reconstruction.straight_through import StraightThrough
from fxquant.reconstruction.train_block import BlockOutcome, Measure, Trainer
from fxquant.reconstruction.unfit import refuse_unbatched

Keep = Callable[[Sequence[BlockOutcome], set[Observer]], object]


class BlockRun:
    """
    One run over the blocks of `prepared`.

    images: the inputs of the graph. outcomes: those of blocks that an earlier run has trained, whose observers hold the result.
    keep: called after each block that is trained, with the outcomes so far and the observers that belong to their blocks.
    """

    def __init__(
        self,
        prepared: fx.GraphModule,
        images: Values,
        options: ReconstructionOptions,
        seed: int,
        outcomes: Sequence[BlockOutcome],
        keep: Keep,
    ) -> None:
        self.prepared, self.images, self.options = prepared, images, options
        self.outcomes, self.keep = list(outcomes), keep
        self.inputs = [n for n in prepared.graph.nodes if n.op == "placeholder"]
        self.features = features_of(prepared)
        self.float = Evaluator(prepared)
        # Sizes that the graph reads, which may be of values in another block, by the number of images.
        self.sizes: dict[int, dict[fx.Node, Any]] = {}
        self.settled = set[Observer]()
        # What the blocks so far give for all images, quantised and float.
        self.before: Values = ()
        self.float_before: Values = ()
        self.trainer = Trainer(options, *split(len(images[0]), options.held_out), seed)

    def over(self, blocks: Sequence[Block], bar: Bar) -> list[BlockOutcome]:
        """Reconstruct each of the `blocks` that was not yet, and return what became of all."""
        done = len(self.outcomes)
        for index, block in enumerate(blocks):
            bar.rename(f"reconstruct {block.label}")
            wanted = (*block.targets, *self._features_behind(block))
            references = self._all(self.float, block.source, wanted, self.float_before)
            learned = self._learned(block)
            self.settled |= learned.observers
            if index >= done:
                self._train(block, learned, wanted, references, bar)
            self.float_before = references[: len(block.targets)]
            self.before = self._all(
                Evaluator(self.prepared, StraightThrough()), block.source, block.targets, self.before
            )
        return self.outcomes

    def _learned(self, block: Block) -> LearnedBlock:
        known = [*self.inputs, *([] if block.source is None else [block.source])]
        known += [n for n in self.prepared.graph.nodes if is_size(n)]
        return LearnedBlock.of(self.float.nodes_between(block.targets, known), self.settled)

    def _train(
        self, block: Block, learned: LearnedBlock, wanted: tuple[fx.Node, ...], references: Values, bar: Bar
    ) -> None:
        def step(loss: float) -> None:
            bar.note(loss=f"{loss:.4g}")
            bar.update()

        if learned.parameters:
            measure = self._measure(block, learned, wanted, references)
            outcome = self.trainer.fit(block.label, learned, measure, len(self.outcomes), step)
        else:
            outcome = BlockOutcome(block.label, 0.0, 0.0, kept=False)
            bar.update(self.options.iterations)
        if outcome.kept:
            learned.store()
        self.outcomes.append(outcome)
        self.keep(self.outcomes, self.settled)
        bar.say(f"held-out loss {outcome.before:.4g} -> {outcome.after:.4g}, {'kept' if outcome.kept else 'reverted'}")

    def _measure(self, block: Block, learned: LearnedBlock, wanted: tuple[fx.Node, ...], references: Values) -> Measure:
        """Return what computes the errors of some images at the results of a block and at the features behind it."""
        quantised, count = Evaluator(self.prepared, learned.operands()), len(block.targets)

        def measure(numbers: Tensor) -> Errors:
            found = quantised.values(block.targets, self._known(numbers, block.source, self.before))
            if len(wanted) > count:
                behind = self._known(numbers) | {block.targets[0]: found[0]}
                found = (*found, *self.float.values(wanted[count:], behind))
            return Errors.of(found, [r[numbers] for r in references], count)

        return measure

    def _features_behind(self, block: Block) -> tuple[fx.Node, ...]:
        """Return the features that are computed from the result of a block; none of the last block."""
        behind = after(block.targets) if len(block.targets) == 1 else set[fx.Node]()
        return tuple(f for f in self.features if f in behind)

    def _known(self, numbers: Tensor, source: fx.Node | None = None, values: Values = ()) -> dict[fx.Node, Any]:
        """Return inputs and sizes for some images, and the value of `source`, of which `values` holds that of all images."""
        known = {node: value[numbers] for node, value in zip(self.inputs, self.images, strict=True)}
        if len(numbers) not in self.sizes:
            readers = [n for n in self.prepared.graph.nodes if is_size(n)]
            with torch.no_grad():
                found = self.float.values(readers, known)
            self.sizes[len(numbers)] = dict(zip(readers, found, strict=True))
        known |= self.sizes[len(numbers)]
        return known if source is None else known | {source: values[0][numbers]}

    @torch.no_grad()
    def _all(self, evaluator: Evaluator, source: fx.Node | None, wanted: tuple[fx.Node, ...], values: Values) -> Values:
        """Return the values of the nodes `wanted` for all images."""
        parts = []
        for numbers in torch.arange(len(self.images[0])).split(self.options.batch_size):
            found = evaluator.values(wanted, self._known(numbers, source, values))
            for node, value in zip(wanted, found, strict=True):
                refuse_unbatched(node, value, len(numbers))
            parts.append(found)
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))
