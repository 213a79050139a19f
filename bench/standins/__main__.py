"""
Train the stand-ins: ``python -m bench.standins [vit deit swin] [--seed N]``.

Some minutes each, on one thread. What is trained already is skipped, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from bench.standins.architectures import STANDINS, WEIGHTS, weights_file
from bench.standins.glyphs import load_part
from bench.standins.training import recipe_for, save_weights, train_standin
from fxquant.errors import FxquantError
from fxquant.measurement.evaluation import evaluate

# The order of float sums depends on the number of threads, so it is fixed like the seed; any machine has one.
THREADS = 1
BATCH = 248


def main(arguments: list[str] | None = None) -> None:
    """Train on the train part, print the accuracy on the test part, write the weights."""
    parser = argparse.ArgumentParser(prog="python -m bench.standins", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(STANDINS)}; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (%(default)s)")
    parser.add_argument("--force", action="store_true", help="train again what is trained")
    parser.add_argument("--epochs", type=float, help="passes over the images, if not the recipe's")
    parser.add_argument("--images", type=int, help="train on the first images only")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        for name in options.names or STANDINS:
            _train_one(name, options)
    except FxquantError as error:
        parser.error(str(error))


def _train_one(name: str, options: argparse.Namespace) -> None:
    recipe = recipe_for(name, options.seed, options.epochs)
    file = weights_file(name, options.seed, options.out)
    if file.exists() and not options.force:
        print(f"{file} is there already: --force trains it again")
        return
    train, test = load_part("train", options.images), load_part("test")
    start = time.process_time()
    model = train_standin(name, train, recipe)
    seconds = time.process_time() - start
    top1 = evaluate(model, list(test.batches(BATCH)), description=f"test {name}").top1
    origin = {"seed": recipe.seed, "epochs": recipe.epochs, "top1": round(top1, 2), "images": len(train)}
    save_weights(model, file, origin | {"recipe": str(recipe), "threads": THREADS, "torch": torch.__version__})
    print(f"{name} seed {recipe.seed}: top-1 {top1:.2f} % of {len(test)} images, {seconds:.0f} s of processor time")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
