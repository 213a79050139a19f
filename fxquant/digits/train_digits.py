"""Train the demo model: ``python -m fxquant.digits.train_digits [--out FILE] [--epochs N] [--seed N]``."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fxquant.digits.images import Digits, load_test_digits, load_train_digits
from fxquant.digits.model import WEIGHTS_FILE, build_digits_vit, measure_top1
from fxquant.errors import ConfigError, FxquantError, InputError
from fxquant.progress import track

# The order of float sums depends on the number of threads, so it is fixed like the seed; any machine has one.
THREADS = 1


@dataclass(frozen=True)
class DigitsTraining:
    """
    How to train: AdamW, linear warm-up then a cosine to zero, small affine distortions.

    The defaults are the packaged model's. Rate, batch size and distortions were compared on held-out fifths of
    the train part, the epochs were set for a run of about six minutes; the test part chose nothing.
    """

    epochs: int = 70
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    label_smoothing: float = 0.1
    max_rotation: float = 12.0  # degrees
    max_shift: float = 0.1  # of half the image's width
    max_zoom: float = 0.1  # relative

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(f"epochs and batch_size must be positive, found {self.epochs} and {self.batch_size}")


def train_digits_vit(digits: Digits, recipe: DigitsTraining | None = None) -> tuple[nn.Module, list[float]]:
    """
    Train the demo model from scratch on the CPU.

    The same images, recipe, number of threads, machine and torch version give the same weights, bit for
    bit. The caller's random state is left as it was.

    Parameters
    ----------
    digits
        Images ``(B, 1, 32, 32)`` and labels ``(B,)`` to learn from.
    recipe
        The packaged model's recipe if not given.

    Returns
    -------
    tuple of nn.Module and list of float
        The model in eval mode, and the mean loss of each epoch.

    Raises
    ------
    InputError
        If there are no images.
    """
    if len(digits) == 0:
        raise InputError("there are no images to train on")
    recipe = recipe or DigitsTraining()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _train(digits, recipe)


def distort(images: Tensor, recipe: DigitsTraining) -> Tensor:
    """Rotate, zoom and shift each image ``(B, 1, H, W)`` by its own small random amount; new area is paper."""
    size = images.shape[0]
    angle = _uniform(size, math.radians(recipe.max_rotation))
    zoom = 1 + _uniform(size, recipe.max_zoom)
    shift = torch.stack((_uniform(size, recipe.max_shift), _uniform(size, recipe.max_shift)), dim=-1)  # (B, 2)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    turn = torch.stack((cos, -sin, sin, cos), dim=-1).view(size, 2, 2)
    grid = F.affine_grid(torch.cat((turn, shift[:, :, None]), dim=-1), list(images.shape), align_corners=False)
    # grid_sample pads with zeros; paper is the smallest value instead.
    paper = images.amin()
    return F.grid_sample(images - paper, grid, align_corners=False) + paper


def save_weights(model: nn.Module, file: Path, notes: dict[str, str]) -> None:
    """
    Write the weights, with notes on their origin as JSON in the metadata entry ``origin``.

    Equal weights and notes give equal bytes. The file appears under its name only once it is complete.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        # One entry: safetensors writes several in an order that changes from run to run.
        save_file(model.state_dict(), partial, metadata={"origin": json.dumps(notes, sort_keys=True)})
        partial.chmod(0o644)  # safetensors leaves 0600, which an installed package must not have
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Train on the train part, print the accuracy on the test part, write the weights."""
    parser = argparse.ArgumentParser(prog="python -m fxquant.digits.train_digits", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE, help="weights to write (default: the packaged file)")
    parser.add_argument(
        "--epochs", type=int, default=DigitsTraining.epochs, help="passes over the images (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=DigitsTraining.seed, help="of weights, order and distortions (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.out.is_dir() or not options.out.parent.is_dir():
        parser.error(f"--out must be a file in an existing folder, found {options.out}")
    try:
        recipe = DigitsTraining(epochs=options.epochs, seed=options.seed)
        train, test = load_train_digits(), load_test_digits()
    except FxquantError as error:
        parser.error(str(error))
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)

    start = time.perf_counter()
    model, losses = train_digits_vit(train, recipe)
    minutes = (time.perf_counter() - start) / 60
    top1 = measure_top1(model, test)
    notes = {"recipe": str(recipe), "threads": str(THREADS), "torch": torch.__version__, "test_top1": f"{top1:.1f}"}
    save_weights(model, options.out, notes)
    print(f"{recipe}\nlast loss {losses[-1]:.4f}, {minutes:.1f} min on {THREADS} thread, torch {torch.__version__}")
    print(f"train top-1 {measure_top1(model, train):.1f} % of {len(train)} images")
    print(f"test top-1 {top1:.1f} % of {len(test)} images")
    print(f"wrote {options.out}")


def _train(digits: Digits, recipe: DigitsTraining) -> tuple[nn.Module, list[float]]:
    model = build_digits_vit().train()
    optimizer = torch.optim.AdamW(_group_parameters(model, recipe), lr=recipe.learning_rate)
    steps_per_epoch = math.ceil(len(digits) / recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _scale_rate(step / steps_per_epoch, recipe))
    losses = []
    for _ in track(range(recipe.epochs), "train", "epoch"):
        total = 0.0
        for images, labels in digits.batches(recipe.batch_size, torch.randperm(len(digits))):
            loss = F.cross_entropy(model(distort(images, recipe)), labels, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(labels)
        losses.append(total / len(digits))
    return model.eval(), losses


def _group_parameters(model: nn.Module, recipe: DigitsTraining) -> list[dict[str, object]]:
    """Decay matrices only: not biases, norms, positions or the class token."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if name.endswith("weight") and p.ndim > 1]
    others = [p for name, p in named if not (name.endswith("weight") and p.ndim > 1)]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _scale_rate(epoch: float, recipe: DigitsTraining) -> float:
    """Scale the learning rate at a fractional epoch: up to 1 over the warm-up, then down to 0."""
    warmup = min(recipe.warmup_epochs, recipe.epochs / 10)
    if epoch < warmup:
        return (epoch + 0.05) / (warmup + 0.05)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (recipe.epochs - warmup)))


def _uniform(size: int, bound: float) -> Tensor:
    return (2 * torch.rand(size) - 1) * bound


if __name__ == "__main__":
    main()
