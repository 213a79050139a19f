"""Train a stand-in from scratch on one thread, and keep its weights."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bench.standins.architectures import build_standin
from bench.standins.glyphs import Glyphs
from fxquant.errors import ConfigError, InputError


@dataclass(frozen=True)
class StandinTraining:
    """How to train: AdamW on shuffled images, linear warm-up, then a cosine to zero. Epochs may end in a part of one."""

    seed: int = 0
    epochs: float = 3.0
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps
    label_smoothing: float = 0.05

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 1:
            raise ConfigError(f"epochs and batch_size must be positive, found {self.epochs} and {self.batch_size}")


RECIPES = {
    "vit": StandinTraining(epochs=3.25),
    "deit": StandinTraining(epochs=3.25),
    "swin": StandinTraining(epochs=3.0, learning_rate=2e-3),
}


def recipe_for(name: str, seed: int = 0, epochs: float | None = None) -> StandinTraining:
    """
    Return the recipe of the stand-in `name` with another seed, and other epochs if given.

    Raises
    ------
    InputError
        If there is no such stand-in.
    """
    if name not in RECIPES:
        raise InputError(f"unknown stand-in {name!r}: expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return replace(recipe, seed=seed, epochs=recipe.epochs if epochs is None else epochs)


def train_standin(name: str, glyphs: Glyphs, recipe: StandinTraining) -> nn.Module:
    """
    Train the stand-in `name` and return it in eval mode.

    The same images, recipe, number of threads, machine and torch version give the same weights, bit for bit. The caller's
    random state is left as it was.

    Raises
    ------
    InputError
        If there is no such stand-in.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_standin(name).train()
        _train(model, glyphs, recipe, name)
    return model.eval()


def save_weights(model: nn.Module, file: Path, notes: dict[str, object]) -> None:
    """
    Write the weights, with notes on their origin as JSON in the metadata entry ``origin``; the folder is made.

    Equal weights and notes give equal bytes. The file appears under its name only once it is complete.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        save_file(model.state_dict(), partial, metadata={"origin": json.dumps(notes, sort_keys=True)})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _train(model: nn.Module, glyphs: Glyphs, recipe: StandinTraining, name: str) -> None:
    optimizer = torch.optim.AdamW(_group_parameters(model, recipe), lr=recipe.learning_rate, fused=True)
    steps = math.ceil(recipe.epochs * len(glyphs) / recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _scale_rate(step / steps, recipe.warmup))
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(True)  # its two heads then give their logits apart
    epochs = math.ceil(recipe.epochs)
    order = torch.cat([torch.randperm(len(glyphs)) for _ in range(epochs)])[: steps * recipe.batch_size]
    progress = tqdm(glyphs.batches(recipe.batch_size, order), desc=name, total=steps, unit="step", mininterval=2.0)
    mean = 0.0
    for images, labels in progress:
        loss = _loss(model(images), labels, recipe.label_smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        mean += (loss.item() - mean) * 0.02
        progress.set_postfix(loss=f"{mean:.3f}", refresh=False)
    if isinstance(model, VisionTransformerDistilled):
        model.set_distilled_training(False)


def _loss(logits: Tensor | tuple[Tensor, Tensor], labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean loss of one head ``(B, classes)`` or of both."""
    heads = logits if isinstance(logits, tuple) else (logits,)
    return torch.stack([F.cross_entropy(head, labels, label_smoothing=smoothing) for head in heads]).mean()


def _group_parameters(model: nn.Module, recipe: StandinTraining) -> list[dict[str, object]]:
    """Decay matrices only: not biases, norms, positions, position biases or the class token."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if name.endswith("weight") and p.ndim > 1]
    others = [p for name, p in named if not (name.endswith("weight") and p.ndim > 1)]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _scale_rate(done: float, warmup: float) -> float:
    """Scale the learning rate when a share of the steps is done: up to 1 over the warm-up, then down to 0."""
    if done < warmup:
        return (done + 0.005) / (warmup + 0.005)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
