"""The run: each competitor gets one outcome, whatever happens to it, and the others are none the worse."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.benchmark import memory
from fxquant.benchmark.competitor import Competitor, Engine, Evidence
from fxquant.benchmark.competitors import BASELINE, COMPETITORS
from fxquant.benchmark.competitors.float_torch import BF16, FP32
from fxquant.benchmark.run_engines import Outcome, Status, run_batch, select_competitors
from fxquant.benchmark.subject import Subject
from fxquant.errors import ConfigError

INT8 = Evidence.of([("gemm", "int8")])


def fake(
    name: str, output: Callable[[Tensor], Tensor] | None = None, evidence: Evidence = INT8, **options: Any
) -> Competitor:
    """Return an int8 engine that gives what the float model gives, changed by `output`."""

    def build(subject: Subject, images: Tensor) -> Engine:
        print("engines talk")
        print("a lot", file=sys.stderr)
        result = FP32.build(subject, images).output()
        return Engine(lambda: None, lambda: output(result) if output else result, lambda: evidence)

    return Competitor(name, "", "int8", build, **options)


def fail(*_: object) -> Engine:
    raise RuntimeError("the kernel is missing\nand a long trace follows")


@pytest.mark.usefixtures("eager")
def test_every_competitor_gets_an_outcome(subject: Subject, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    competitors = [
        fake("good"),
        Competitor("broken", "", "int8", fail),
        fake("absent", needs=("torch", "no_such_package_here")),
        fake("elsewhere", devices=("cuda",)),
        fake("slipped", evidence=Evidence.of([("gemm", "float32")])),
        fake("wrong", lambda y: -y),
        fake("cut", lambda y: y[:, :1]),
        fake("nan", lambda y: y * torch.nan),
        BASELINE,
    ]
    outcomes = {o.name: o for o in run_batch(subject, images, competitors, rounds=3)}
    assert list(outcomes) == [c.name for c in competitors]
    assert {name: o.status for name, o in outcomes.items()} == {
        "good": Status.MEASURED,
        "broken": Status.FAILED,
        "absent": Status.NOT_INSTALLED,
        "elsewhere": Status.UNSUPPORTED,
        "slipped": Status.OTHER_PRECISION,
        "wrong": Status.DISAGREES,
        "cut": Status.FAILED,
        "nan": Status.DISAGREES,
        BASELINE.name: Status.MEASURED,
    }
    assert {name for name, o in outcomes.items() if o.timing} == {"good", "wrong", "nan", BASELINE.name}
    assert {name for name, o in outcomes.items() if o.reason is None} == {"good", BASELINE.name}
    assert outcomes["broken"].reason == "RuntimeError: the kernel is missing"
    assert outcomes["absent"].reason == "not installed (no_such_package_here): pip install no_such_package_here"
    assert outcomes["elsewhere"].reason == "runs on cuda, not on cpu"
    assert outcomes["slipped"].reason == "not int8: 0 of 1 products; it ran gemm float32 x1"
    assert outcomes[BASELINE.name].speedup == 1
    assert "engines talk" not in "".join(capfd.readouterr())
    for outcome in outcomes.values():
        json.dumps(outcome.as_json(2), allow_nan=False)


def test_without_the_baseline_there_are_times_but_no_ratios(
    subject: Subject, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxquant.benchmark.run_engines.joules_per_call", lambda run, device: None)
    (outcome,) = run_batch(subject, images, [BF16], rounds=2)
    assert outcome.timing is not None
    assert len(outcome.timing.seconds) == 2
    assert outcome.speedup is None
    data = outcome.as_json(2)
    assert data["p50_ms"] <= data["p95_ms"]
    assert data["images_per_second"] == pytest.approx(2 / outcome.timing.median, abs=0.01)
    assert data["products"] == {"bfloat16": 7}
    assert 0 < data["first_call_seconds"] < data["build_seconds"]
    assert data["joules_per_image"] is None


def test_energy_is_that_of_an_image(subject: Subject, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.benchmark.run_engines.joules_per_call", lambda run, device: 3.0)
    (outcome,) = run_batch(subject, images, [BF16], rounds=5, max_seconds=0)
    assert outcome.as_json(4)["joules_per_image"] == 0.75
    assert outcome.timing is not None
    assert len(outcome.timing.seconds) == 3, "past its time, no round begins after three"


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells the peak of a call")
def test_what_is_made_before_an_engine_is_not_its_memory(subject: Subject, images: Tensor) -> None:
    held: list[Tensor] = []

    def hold(_: Subject) -> None:
        held.append(torch.ones(2**26, dtype=torch.int8))

    (outcome,) = run_batch(subject, images, [fake("one", prepare=hold)], rounds=1)
    assert len(held) == 1
    assert outcome.memory is not None
    assert outcome.memory < 2**25


def test_nothing_to_time(subject: Subject, images: Tensor) -> None:
    (outcome,) = run_batch(subject, images, [Competitor("broken", "", "int8", fail)], rounds=2)
    assert outcome == Outcome("broken", Status.FAILED, "RuntimeError: the kernel is missing")


def test_the_baseline_is_always_there() -> None:
    assert select_competitors([]) == COMPETITORS
    assert [c.name for c in select_competitors(["pt2e", "fp32"])] == ["fp32", "bf16-compile", "pt2e"]
    with pytest.raises(ConfigError, match=r"unknown competitors tensorrt: expected some of fp32, fp32-compile"):
        select_competitors(["pt2e", "tensorrt"])
