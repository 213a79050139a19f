"""``fxquant bench MODEL``: latency, throughput and memory of the int8 model beside what else could run the model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors import BASELINE
from fxquant.benchmark.competitors.fxquant_int8 import FXQUANT, FXQUANT_COMPILE
from fxquant.benchmark.kernels import KernelLine, list_kernels
from fxquant.benchmark.profile_forms import profile_forms
from fxquant.benchmark.run_engines import WARM_UP, Outcome, run_batch, select_competitors
from fxquant.benchmark.subject import SavedSubject, Subject
from fxquant.cli.auto import chosen_config, resolve_budget
from fxquant.cli.options.bench import ALL, add_arguments
from fxquant.cli.output import format_table, print_facts
from fxquant.cli.preprocessing import chosen_data_config, given_preprocessing
from fxquant.cli.resolve import arguments_as_json, build_chosen_model, resolve_recipe, start_run
from fxquant.cli.saved import input_size, is_saved, load_saved, refuse_model_options
from fxquant.data.data_config import DataConfig
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import json_report
from fxquant.inspection.profile import Profile
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.option_values import format_value


@dataclass(frozen=True, eq=False)
class _BenchSetting:
    """What is timed, on images ``(C, H, W)`` of `size`, and what is said of it."""

    subject: Subject
    competitors: Sequence[Competitor]
    size: tuple[int, int, int]
    facts: dict[str, str]
    json: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Measured:
    """Everything that the command found out."""

    batches: dict[int, list[Outcome]]
    load: dict[int, float]  # processes that wanted to run: near the number of threads if alone
    kernels: list[KernelLine]
    profiles: dict[int, dict[str, Profile | str]]


def run(options: argparse.Namespace) -> None:
    """Measure every batch size; print tables as they are ready and write the JSON file."""
    start_run(options)
    with json_report(options.json) as report:
        _run(options, report)


def _run(options: argparse.Namespace, report: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(options.seed)
    setting = _saved_setting(options) if is_saved(options.model) else _timm_setting(options, random)
    subject, competitors, size = setting.subject, setting.competitors, setting.size
    print_facts(_describe(options, setting))
    measured = _Measured({}, {}, [], {})
    for batch in dict.fromkeys(options.batch):
        images = torch.randn(batch, *size, generator=random)
        _measure_batch(subject, images, competitors, options, measured)
        report |= _as_json(options, setting, measured)
    _list_kernels(subject, measured)
    report |= _as_json(options, setting, measured)


def _timm_setting(options: argparse.Namespace, random: torch.Generator) -> _BenchSetting:
    """Return what is timed of a timm model."""
    competitors = select_competitors(() if ALL in options.competitors else options.competitors)
    config, recipe_options = resolve_recipe(options)
    resolve_budget(options)  # what cannot be read is refused now
    device = resolve_device(options.device)
    source = build_chosen_model(options)
    size = chosen_data_config(options, source).input_size
    calibration = torch.randn(options.calib, *size, generator=random)
    chosen: dict[str, Any] = {}
    config = chosen_config(source.model.to(device), config, [calibration], options, chosen)
    subject = Subject(source.model, calibration, config, device=device, seed=options.seed, memory=options.memory)
    given = "".join(f", {name}={format_value(value)}" for name, value in options.option)
    facts = {
        "model": f"{source}, on {options.device}",
        "weights": source.weights,
        "quantise": f"recipe {options.recipe}{given}, W{options.w_bits}A{options.a_bits}, {options.calib} random images",
    }
    recipe = {"name": options.recipe, "options": recipe_options, "w_bits": options.w_bits, "a_bits": options.a_bits}
    model = {"name": source.name, "weights": source.weights, "input_size": list(size)}
    return _BenchSetting(subject, competitors, size, facts, {"model": model, "recipe": recipe, **chosen})


def _saved_setting(options: argparse.Namespace) -> _BenchSetting:
    """Return what is timed of a saved model."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    refuse_model_options(options, parser.parse_args([options.model]))
    both, wanted = (FXQUANT, FXQUANT_COMPILE), set(options.competitors)
    competitors = both if ALL in wanted else tuple(c for c in both if c.name in wanted)
    if wanted - {ALL, *(c.name for c in both)}:
        raise InputError(
            f"--competitors: of a saved model {FXQUANT.name} and {FXQUANT_COMPILE.name} are timed, as its file holds no float "
            f"model; got {' '.join(options.competitors)}"
        )
    gm = load_saved(options.model, resolve_device(options.device))
    own = input_size(gm) if gm.data_config is None else gm.data_config.input_size
    if own is None:
        raise InputError(f"{options.model} does not take images alone: time it from Python")
    size = DataConfig(own, (0.0,) * own[0], (1.0,) * own[0]).changed(given_preprocessing(options)).input_size
    facts = {"file": f"{options.model}, on {options.device}", **gm.card.describe()}
    card = {"model": {"file": options.model, "card": asdict(gm.card), "input_size": list(size)}}
    return _BenchSetting(SavedSubject(options.model, device=options.device), competitors, size, facts, card)


def _measure_batch(
    subject: Subject, images: Tensor, competitors: Sequence[Any], options: argparse.Namespace, measured: _Measured
) -> None:
    batch = len(images)
    outcomes = run_batch(subject, images, competitors, options.rounds, f"batch {batch}")
    measured.batches[batch], measured.load[batch] = outcomes, round(os.getloadavg()[0], 1)
    print(f"\nbatch {batch}\n{format_outcomes(outcomes, batch)}", flush=True)
    for outcome in outcomes:
        if outcome.reason:
            print(f"{outcome.name}: {outcome.reason}", flush=True)
    if options.profile:
        measured.profiles[batch] = profile_forms(subject, images)
        for name, profile in measured.profiles[batch].items():
            shown = profile if isinstance(profile, str) else format_profile(profile)
            print(f"\nwhere the time goes: {name}, batch {batch}\n{shown}", flush=True)


def _list_kernels(subject: Subject, measured: _Measured) -> None:
    """Print the kernels of the fastest kind of fxquant model that was measured."""
    ran = {o.name for outcomes in measured.batches.values() for o in outcomes if o.timing}
    compiled = bool(ran & {"fxquant-compile", "fxquant-bf16-compile"})
    if compiled or ran & {"fxquant", "fxquant-bf16"}:
        measured.kernels.extend(list_kernels(subject.quantized(), compiled))
        how = "fxquant.compile" if compiled else "eager"
        print(f"\nproducts of the int8 model, {how}\n{format_kernels(measured.kernels)}")


def format_outcomes(outcomes: Sequence[Outcome], batch: int) -> str:
    """Return the table of one batch size; a competitor without a time has an empty line."""
    header = ["", "p50 ms", "p95 ms", "images/s", f"x {BASELINE.name}", "memory MB", "int8 products", "SQNR dB"]
    lines = []
    for outcome in outcomes:
        timing, evidence = outcome.timing, outcome.evidence
        cells = ["", "", ""]
        if timing:
            cells = [f"{timing.median * 1e3:.2f}", f"{timing.percentile(95) * 1e3:.2f}", f"{batch / timing.median:.1f}"]
        cells.append(f"{outcome.speedup:.2f}" if outcome.speedup else "")
        cells.append(f"{outcome.memory / 1e6:.0f}" if outcome.memory is not None else "")
        cells.append(f"{evidence.products.get('int8', 0)}/{evidence.total}" if evidence else "")
        cells.append(f"{outcome.agreement.sqnr:.1f}" if outcome.agreement else outcome.status.value)
        lines.append([outcome.name, *cells])
    return format_table(header, lines)


def format_kernels(kernels: Sequence[KernelLine]) -> str:
    """Return the table of products and their kernels."""
    total = sum(line.macs for line in kernels)
    rows = [
        [
            f"{line.name} x{line.count}",
            f"{line.macs / total:.1%}" if total else "?",
            line.kernel,
            line.codes or f"float: {line.reason}",
        ]
        for line in kernels
    ]
    return format_table(["", "MACs", "kernel", "runs on"], rows, text=(0, 2, 3))


def format_profile(profile: Profile) -> str:
    """Return the table of classes, with the slowest operators of each."""
    rows = []
    for op_class, seconds in profile.seconds.items():
        slowest = [f"{_short(name)} {s * 1e3:.2f}" for name, s in list(profile.operators[op_class].items())[:3] if s]
        rows.append([op_class.value, f"{seconds * 1e3:.2f}", f"{profile.share(op_class):.1%}", ", ".join(slowest)])
    return format_table(["", "ms", "share", "slowest, ms"], rows, text=(0, 3))


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


def _profiles_as_json(profiles: dict[str, Profile | str]) -> dict[str, Any] | None:
    return {name: {"failed": p} if isinstance(p, str) else p.as_json() for name, p in profiles.items()} or None


def _describe(options: argparse.Namespace, setting: _BenchSetting) -> dict[str, str]:
    environment = describe_environment()
    engines = ", ".join(f"{name} {version}" for name, version in environment["engines"].items())
    return {
        **setting.facts,
        "input": f"{'x'.join(map(str, setting.size))}, random, seed {options.seed}",
        "processor": f"{environment['processor']}, {environment['threads']} of {environment['cores']} cores, "
        f"{' '.join(environment['features']) or environment['cpu_capability']}",
        "gpu": environment["gpu"] or "none",
        "versions": f"torch {environment['torch']}, timm {environment['timm']}{', ' if engines else ''}{engines}",
        "timing": f"one call of each engine per round, {options.rounds} rounds; {WARM_UP} calls to warm up, one before each "
        "timed call",
    }


def _as_json(options: argparse.Namespace, setting: _BenchSetting, measured: _Measured) -> dict[str, Any]:
    return {
        "command": "bench",
        "arguments": arguments_as_json(options),
        **setting.json,
        "baseline": BASELINE.name,
        "rounds": options.rounds,
        "warm_up_calls": WARM_UP,
        "batches": [
            {
                "batch": batch,
                "load": measured.load[batch],
                "results": [outcome.as_json(batch) for outcome in outcomes],
                "profile": _profiles_as_json(measured.profiles.get(batch, {})),
            }
            for batch, outcomes in measured.batches.items()
        ],
        "products": [line.as_json() for line in measured.kernels],
        "environment": describe_environment(),
    }
