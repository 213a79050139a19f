"""A float model measured, quantised and measured again: seeds decide, and compiled models see one batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import FxquantError
from fxquant.measurement.experiment import (
    Task,
    calibrate_model,
    compile_model,
    count_bytes,
    measure_converted,
    measure_float,
)
from tests.support.models import images, small_vit


def task(seed: int = 0, sizes: tuple[int, ...] = (4, 4, 2)) -> Task:
    """Return a task whose last batch is smaller."""
    batches = [(images(size, number), torch.arange(size)) for number, size in enumerate(sizes)]
    return Task(small_vit(depth=1), batches, batches, torch.device("cpu"), torch.float32, seed)


def calibrated(given: Task, recipe: str = "minmax", **options: Any) -> fx.GraphModule:
    return calibrate_model(given, fxquant.recipe(recipe, **options))[0]


def test_bytes_of_shared_tensors_are_counted_once() -> None:
    layer, other = nn.Linear(3, 5), nn.Linear(3, 5)
    assert count_bytes(nn.ModuleList([layer, layer])) == count_bytes(layer) == 4 * (3 * 5 + 5)
    assert count_bytes(nn.ModuleList([layer, other])) == 2 * count_bytes(layer)
    other.weight = layer.weight
    assert count_bytes(nn.ModuleList([layer, other])) == 4 * (3 * 5 + 2 * 5)
    assert count_bytes(nn.Linear(3, 5).half()) == 2 * (3 * 5 + 5)


def test_the_float_model_agrees_with_itself_and_its_simulation_has_no_size(tmp_path: Path) -> None:
    given = task()
    reference = measure_float(given, "float32")
    prepared = calibrated(given)
    gm, row = measure_converted(given, prepared, reference.evaluation, "int8", target="int8")
    _, fake = measure_converted(given, prepared, reference.evaluation, "fake", target="fake")
    assert (reference.evaluation.count, row.evaluation.count) == (10, 10)
    fxquant.save(gm, tmp_path / "model.safetensors")
    assert row.size == (tmp_path / "model.safetensors").stat().st_size
    assert reference.size is not None
    assert row.size < reference.size
    assert row.coverage == fxquant.report(gm).coverage
    assert (fake.size, fake.coverage) == (None, None)
    assert fake.agreement is not None
    found = row.as_json()
    assert (found["name"], found["images"], found["agreement_percent"]) == ("int8", 10, row.agreement)


def test_the_seed_decides_what_calibration_draws() -> None:
    states = [calibrated(task(seed), "noisyquant", noise="uniform", max_rows=64).state_dict() for seed in (0, 0, 1)]
    same, other = ([torch.equal(states[0][name], s[name]) for name in states[0]] for s in states[1:])
    assert all(same)
    assert not all(other)


@pytest.mark.parametrize("memory", [None, 2**20])
def test_memory_is_left_to_fxquant_unless_it_is_given(memory: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def calibrate(prepared: fx.GraphModule, batches: Any, **options: Any) -> fx.GraphModule:
        given.update(options)
        return prepared

    monkeypatch.setattr(fxquant, "calibrate", calibrate)
    _, seconds = calibrate_model(task(3), fxquant.recipe("minmax"), memory)
    assert seconds >= 0
    assert given["seed"] == 3
    assert given.get("memory") == memory
    assert ("memory" in given) == (memory is not None)


def test_a_compiled_model_sees_one_batch_size_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compiler(gm: fx.GraphModule) -> Callable[[Tensor], Any]:
        def run(batch: Tensor) -> Any:
            sizes.append(len(batch))
            return gm(batch)

        return run

    monkeypatch.setattr(fxquant, "compile", compiler)
    given = task()
    prepared, reference = calibrated(given), measure_float(given, "float32").evaluation
    _, eager = measure_converted(given, prepared, reference, "eager", target="int8")
    _, compiled = measure_converted(given, prepared, reference, "compiled", target="int8", compiled=True)
    assert set(sizes) == {4}
    assert compiled.evaluation.count == 10
    assert torch.equal(compiled.evaluation.predictions, eager.evaluation.predictions)


def _raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
        (_raised(RuntimeError("backend"), ValueError("InvalidCxxCompiler: no g++")), "no C++ compiler"),
        (_raised(RuntimeError("backend"), ValueError("other")), "RuntimeError: backend"),
    ],
)
def test_a_compiler_that_fails_says_why_in_one_line(error: Exception, reason: str) -> None:
    def fail(_: Tensor) -> None:
        raise error

    with pytest.raises(FxquantError, match=rf"^torch\.compile failed: {reason.replace('+', '.')}$"):
        compile_model(nn.Identity(), lambda _: fail, images(1))
