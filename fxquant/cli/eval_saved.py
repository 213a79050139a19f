"""``fxquant eval FILE --data DIR``: a saved model on an image folder, with the preprocessing that the file holds."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.cli.output import print_facts
from fxquant.cli.rows import format_rows
from fxquant.cli.saved import load_saved, saved_data_config
from fxquant.cli.setting import print_unreadable, share_unreadable
from fxquant.data.batches import ImageBatches
from fxquant.data.data_config import DataConfig
from fxquant.data.folder import ImageTree, check_classes, draw_images, index_classes_by, read_image_tree
from fxquant.data.unreadable import Unreadable
from fxquant.distributed import resolve_device
from fxquant.graph.meta import model_dtype
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.experiment import Row, Task, measure_graph


def evaluate_saved(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Measure the model in a file; print the figures and put them into `report`."""
    device = resolve_device(options.device)
    gm = load_saved(options.model, device)
    config = saved_data_config(gm, options)
    tree = read_tree_of(options, gm)
    _, held = draw_images(tree, 0, options.limit, options.seed)
    lost = Unreadable(len(held), limit=options.unreadable, found=len(tree.evaluation))
    evaluation = ImageBatches(held, config, options.batch_size, options.workers, unreadable=lost)
    print_facts(_describe(options, gm, config, evaluation))
    for note in tree.notes:
        print(f"note: {note}")
    task = Task(gm, (), evaluation, device, model_dtype(gm), options.seed)
    row = measure_graph(task, gm, "saved", options.compile)
    share_unreadable(evaluation)
    print(f"\n{format_rows([row])}")
    print_unreadable(evaluation)
    report |= _as_json(options, gm, config, evaluation, row)


def read_tree_of(options: argparse.Namespace, gm: StagedGraph) -> ImageTree:
    """Return the folder with the indices of the model's classes, by the names in the file unless there is a class map."""
    tree = read_image_tree(options.data, options.class_map)
    if gm.class_names and options.class_map is None:
        return index_classes_by(tree, gm.class_names)
    if gm.card.num_classes is not None:
        check_classes(tree, gm.card.num_classes, options.class_map is not None)
    return tree


def _describe(
    options: argparse.Namespace, gm: StagedGraph, config: DataConfig, evaluation: ImageBatches
) -> dict[str, str]:
    known = gm.card.describe()
    stored = {"then": known.pop("accuracy")} if "accuracy" in known else {}
    images = evaluation.samples
    return {
        "file": options.model,
        **known,
        "input": str(config),
        **stored,
        "evaluate": f"{len(images)} images in {images.root}, on {options.device}",
    }


def _as_json(
    options: argparse.Namespace, gm: StagedGraph, config: DataConfig, evaluation: ImageBatches, row: Row
) -> dict[str, Any]:
    return {
        "command": "eval",
        "model": {"file": options.model, "card": asdict(gm.card)},
        "data": {
            "config": asdict(config),
            "folder": str(evaluation.samples.root),
            "unreadable": evaluation.unreadable.as_json(),
        },
        "seed": options.seed,
        "results": {"quantised": row.as_json()},
        "environment": describe_environment(),
    }
