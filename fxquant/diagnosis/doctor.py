"""`fxquant.doctor`: why a quantised model is not more accurate, or not faster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx, nn

from fxquant.api import calibrate, convert, prepare, trace
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import recipe
from fxquant.data.batches import resolve_data_config
from fxquant.data.data_config import DataConfig
from fxquant.diagnosis.answers import Diagnosis
from fxquant.diagnosis.examined import Examined, FloatSide, in_two, shown_by
from fxquant.diagnosis.image_shift import check_shift
from fxquant.diagnosis.measured_changes import check_changes
from fxquant.diagnosis.preprocessing_check import check_preprocessing
from fxquant.diagnosis.product_sections import check_capture, check_products
from fxquant.diagnosis.section import DoctorSection
from fxquant.diagnosis.time_spent import check_time
from fxquant.diagnosis.token_outliers import check_tokens
from fxquant.errors import ConfigError, InputError, expect_iterable, expect_whole
from fxquant.graph.inputs import Batch
from fxquant.graph.meta import card_of, value_of
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.report import report
from fxquant.precision.float_graph import float_graph
from fxquant.tracing.made_example import made_example

CHANGES = 10
_MADE_UP = 8  # images, where there are no others


def doctor(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    config: QuantConfig | None = None,
    *,
    evaluate: Iterable[Batch] | None = None,
    more: Iterable[Batch] = (),
    data_config: DataConfig | None = None,
    expected_top1: float | None = None,
    changes: int = CHANGES,
    time: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> Diagnosis:
    """
    Return what keeps `model` from being as accurate or as fast on int8 as it could be.

    model: any module, or its graph from `fxquant.trace`, which is quantised with `config`; or a graph from `fxquant.convert`,
    which is looked at as it is. batches: as for `fxquant.calibrate`; None: noise calibrates, and what would say anything of
    images is left out. config: None is ``recipe("default")``. evaluate: the batches that accuracy is measured on, which are
    kept in memory, with labels ``(B,)`` behind the images where there are any. more: further calibration batches, to find out
    whether they help.

    data_config: how the images were prepared; None: as the model's own data config says, where timm or a file gives it one.
    expected_top1: what the float model is known to reach, in percent; for a quantised graph, what that one is. changes: how
    many changes are tried, each with a calibration of its own; 0 for none. time: whether times are measured.

    Raises `InputError` where nobody knows which images the model takes, `ConfigError` for options that mean nothing together,
    and what the four verbs raise.
    """
    expect_whole("changes", changes, least=0)
    if expected_top1 is not None and not 0 < expected_top1 <= 100:
        raise ConfigError(f"expected_top1 must be in percent, above 0 and up to 100, got {expected_top1!r}")
    examined = _examined(model, batches, config, evaluate, data_config, progress, seed)
    facts = report(examined.quantized)
    first, better = check_preprocessing(examined, expected_top1)
    shift, shifted = check_shift(examined)
    sections = (
        first,
        check_capture(facts),
        check_products(facts),
        check_tokens(examined, facts),
        shift,
        _timed(examined, time),
        check_changes(examined, facts, better, shifted, _listed(more), changes, time, progress),
    )
    named = card_of(examined.quantized).model or type(model).__name__
    return Diagnosis(named, sections)


def _examined(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    config: QuantConfig | None,
    evaluate: Iterable[Batch] | None,
    data_config: DataConfig | None,
    progress: bool,
    seed: int,
) -> Examined:
    own = _own_config(model)
    given, held = data_config or own, [] if evaluate is None else _listed(evaluate)
    stage = stage_of(model) if isinstance(model, fx.GraphModule) else None
    if isinstance(model, fx.GraphModule) and stage in (Stage.QUANTISED, Stage.LOWERED):
        if config is not None or batches is not None:
            raise ConfigError("a quantised graph has its config and its calibration: give the float model, or neither")
        blank = [] if held else _blank_for(model)
        return Examined(model, None, not held, shown_by(model, blank), in_two(shown_by(model, held)), own, given)
    if stage is Stage.PREPARED:
        raise InputError("doctor expected the float model, or a graph from fxquant.convert, found a prepared graph")
    made_up = batches is None
    known = _noise(model, seed) if batches is None else _listed(batches)
    config = recipe("default") if config is None else config
    traced = trace(model) if made_up and stage is None else float_graph(model, known)
    prepared = calibrate(prepare(traced, config), known, progress, seed=seed)
    source = FloatSide(traced, config, prepared, known, seed)
    return Examined(
        convert(prepared), source, made_up, shown_by(prepared, known), in_two(shown_by(prepared, held)), own, given
    )


def _own_config(model: nn.Module) -> DataConfig | None:
    """Return the data config on the card of a graph, or of a timm model."""
    if isinstance(model, fx.GraphModule):
        return card_of(model).data_config
    if "mean" not in (getattr(model, "pretrained_cfg", None) or {}):
        return None
    published, example = resolve_data_config(model), made_example(model)
    return published if example is None else published.changed({"input_size": tuple(example.shape[1:])})


def _noise(model: nn.Module, seed: int) -> list[Batch]:
    example = made_example(model)
    if example is None:
        raise InputError("doctor cannot tell which images the model takes: give it batches to calibrate with")
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(_MADE_UP, *example.shape[1:], generator=generator).to(example)]


def _blank_for(gm: fx.GraphModule) -> list[Batch]:
    """Return zeros for a graph that takes images alone, to time it with; nothing for any other."""
    taken = [value_of(node) for node in gm.graph.nodes if node.op == "placeholder"]
    images = [t for t in taken if t is not None and t.dim() == 4 and t.is_floating_point()]
    return [torch.zeros(_MADE_UP, *map(int, images[0].shape[1:]))] if len(images) == len(taken) == 1 else []


def _timed(examined: Examined, wanted: bool) -> DoctorSection:
    title, missing = "What does the time go to?", None
    if not wanted:
        missing = "times were not to be measured"
    elif not (*examined.evaluation, *examined.calibration):
        missing = "it needs images: there are none"
    elif stage_of(examined.quantized) is not Stage.LOWERED:
        missing = "the graph was converted with target fake, which simulates int8 in float"
    return DoctorSection("time", title, left_out=missing) if missing else check_time(examined)


def _listed(batches: Iterable[Batch]) -> Sequence[Batch]:
    expect_iterable(batches, "an iterable of batches")
    return list(batches)
