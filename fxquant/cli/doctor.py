"""``fxquant doctor MODEL --data DIR``: why a quantised model is not more accurate, or not faster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import fxquant
from fxquant.cli.auto import chosen_config
from fxquant.cli.eval_saved import read_tree_of
from fxquant.cli.options.doctor import add_arguments
from fxquant.cli.resolve import arguments_as_json, build_chosen_model, chosen_dtype, resolve_recipe, start_run
from fxquant.cli.saved import is_saved, load_saved, refuse_model_options, saved_data_config
from fxquant.cli.setting import Setting, describe_setting, print_unreadable, resolve_setting
from fxquant.data.batches import ImageBatches
from fxquant.data.folder import check_classes, draw_images
from fxquant.data.unreadable import Unreadable
from fxquant.diagnosis.answers import Diagnosis
from fxquant.diagnosis.published_top1 import CLASSES, TOP1
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import json_report, refuse_unwritable
from fxquant.measurement.environment import describe_environment

_MORE = 4  # times as many calibration images as were asked for, where the folder has them


def run(options: argparse.Namespace) -> None:
    """Print the diagnosis, and write the page and the figures that were asked for."""
    start_run(options)
    if options.html is not None:
        refuse_unwritable(options.html)
    with json_report(options.json) as facts:
        if is_saved(options.model):
            diagnosis = _saved(options)
        elif options.data is None and options.calib.kind == "real":
            diagnosis = _without_images(options)
        else:
            diagnosis = _with_images(options, facts)
        print(diagnosis)
        if options.html is not None:
            diagnosis.save(options.html)
            print(f"\nwrote {options.html}")
        facts |= {
            "command": "doctor",
            "arguments": arguments_as_json(options),
            **diagnosis.to_dict(),
            "environment": describe_environment(),
        }


def _with_images(options: argparse.Namespace, facts: dict[str, Any]) -> Diagnosis:
    device, dtype = resolve_device(options.device), chosen_dtype(options)
    setting = resolve_setting(options, evaluated=options.data is not None, labelled=False)
    model = setting.source.model.to(device=device, dtype=dtype)
    unknown = _unlabelled(options, setting)
    calibration = list(setting.calibration)
    config = chosen_config(model, setting.config, setting.calibration, options, facts)
    found = fxquant.doctor(
        model,
        calibration,
        config,
        evaluate=_evaluation(setting.evaluation, unknown is None),
        more=_more(options, setting),
        data_config=setting.data_config,
        expected_top1=_expected(options, setting),
        changes=options.changes,
        time=not options.no_time,
        seed=options.seed,
    )
    print_unreadable(setting.calibration, *([] if setting.evaluation is None else [setting.evaluation]))
    notes = [*setting.notes, *([] if unknown is None else [unknown])]
    if setting.reconstruction is not None:
        notes.append("blocks are not reconstructed here")
        setting = replace(setting, reconstruction=None)
    return Diagnosis(
        setting.source.name,
        found.sections,
        {**describe_setting(options, setting), **_evaluated(setting.evaluation), **_noted(notes)},
    )


def _without_images(options: argparse.Namespace) -> Diagnosis:
    """Return what can be said of a timm model without images."""
    config, _ = resolve_recipe(options)
    source = build_chosen_model(options)
    model = source.model.to(device=resolve_device(options.device), dtype=chosen_dtype(options))
    found = fxquant.doctor(model, config=config, changes=0, time=not options.no_time, seed=options.seed)
    facts = {
        "model": f"{source}, {options.dtype} on {options.device}",
        "weights": source.weights,
        "images": "none: --data DIR gives them; noise calibrates",
    }
    return Diagnosis(source.name, found.sections, facts)


def _saved(options: argparse.Namespace) -> Diagnosis:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    refuse_model_options(options, parser.parse_args([options.model]))
    gm = load_saved(options.model, resolve_device(options.device))
    evaluation, config, expected, notes = None, None, options.expected_top1, tuple[str, ...]()
    if options.data is not None:
        config, tree = saved_data_config(gm, options), read_tree_of(options, gm)
        _, held = draw_images(tree, 0, options.limit, options.seed)
        lost = Unreadable(len(held), limit=options.unreadable, found=len(tree.evaluation))
        evaluation = ImageBatches(held, config, options.batch_size, options.workers, unreadable=lost)
        known = gm.card.accuracy
        if expected is None and known is not None and known.data == options.data.resolve().name:
            expected = known.quantised_top1
        notes = tree.notes
    found = fxquant.doctor(
        gm,
        evaluate=_evaluation(evaluation, True),
        data_config=config,
        expected_top1=expected,
        time=not options.no_time,
        seed=options.seed,
    )
    facts = {"file": options.model, **gm.card.describe(), **_evaluated(evaluation), **_noted(notes)}
    return Diagnosis(gm.card.model or options.model, found.sections, facts)


def _unlabelled(options: argparse.Namespace, setting: Setting) -> str | None:
    """Return why the labels of the folder say nothing of the model, None where they do."""
    if setting.tree is None or not setting.tree.classes:
        return None if setting.tree is None else "accuracy needs class folders"
    try:
        check_classes(setting.tree, setting.source.num_classes, options.class_map is not None)
    except InputError as error:
        return str(error)
    return None


def _evaluation(batches: ImageBatches | None, labelled: bool) -> list[Any] | None:
    return None if batches is None else [batch if labelled else batch[:1] for batch in batches]


def _more(options: argparse.Namespace, setting: Setting) -> Sequence[Any]:
    """Return further calibration images of the folder, none of which is evaluated on."""
    tree, first = setting.tree, setting.calibration
    if tree is None or not isinstance(first, ImageBatches) or setting.evaluation is None or not options.changes:
        return []
    count = options.calib.count
    wanted = min(_MORE * count, len(tree.calibration) - tree.shared)
    drawn, _ = draw_images(tree, wanted, None, options.seed)
    taken = {*setting.evaluation.samples.files, *first.unreadable.reasons}
    left = [i for i in range(count, len(drawn)) if drawn.files[i] not in taken]
    return list(ImageBatches(drawn.take(left), setting.data_config, first.batch_size, options.workers)) if left else []


def _expected(options: argparse.Namespace, setting: Setting) -> float | None:
    """Return the top-1 that was given, or that is published for the model, where the folder has the classes of ImageNet."""
    given: float | None = options.expected_top1
    imagenet = setting.tree is not None and len(setting.tree.classes) == CLASSES
    return TOP1.get(setting.source.name) if given is None and _as_published(options) and imagenet else given


def _as_published(options: argparse.Namespace) -> bool:
    return options.pretrained and options.img_size is None and options.num_classes is None


def _evaluated(batches: ImageBatches | None) -> dict[str, str]:
    if batches is None:
        return {}
    return {"evaluate": f"{len(batches.samples)} images in {batches.samples.root}"}


def _noted(notes: Sequence[str]) -> dict[str, str]:
    return {"note": "; ".join(notes)} if notes else {}
