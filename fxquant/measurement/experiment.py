"""What `eval` and `demo` have in common: a float model measured, quantised and measured again on the same images."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.api import Target
from fxquant.checkpoint import count_file_bytes
from fxquant.config.quant_config import QuantConfig
from fxquant.distributed import shard
from fxquant.errors import FxquantError
from fxquant.graph.inputs import Arguments, batch_size, has_batch, moved
from fxquant.measurement.evaluation import Evaluation, evaluate, measure_agreement
from fxquant.ops.make_output import map_output

Batches = Iterable[Any]


@dataclass(frozen=True, eq=False)
class Task:
    """
    A float model, on its device and in its dtype, with the images to calibrate it with and to measure it on.

    calibration, evaluation: batches of images ``(B, C, H, W)`` and labels ``(B,)``, or of another form that
    `fxquant.graph.inputs.Arguments` knows, that can be iterated more than once. In a
    process group they are all batches, with a `shard` method; each rank takes its own. dynamic: as in `fxquant.trace`.
    """

    model: nn.Module
    calibration: Batches
    evaluation: Batches
    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    dynamic: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table. agreement: percent of images classified as by the float model. coverage: 0..1, see Report."""

    name: str
    evaluation: Evaluation
    agreement: float | None = None
    size: int | None = None  # bytes
    coverage: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the line's numbers with their units in the keys."""
        return {
            "name": self.name,
            "top1_percent": self.evaluation.top1,
            "top5_percent": self.evaluation.top5,
            "agreement_percent": self.agreement,
            "images": self.evaluation.count,
            "size_bytes": self.size,
            "int8_coverage": self.coverage,
        }


def measure_float(task: Task, name: str) -> Row:
    """Evaluate the task's float model."""
    result = _evaluate(task, task.model, name)
    return Row(name, result, size=count_bytes(task.model))


def calibrate_model(
    task: Task, config: QuantConfig, memory: int | None = None, reconstruction: Mapping[str, Any] | None = None
) -> tuple[fx.GraphModule, float]:
    """
    Return the prepared, calibrated model and the seconds that calibration took; the seed fixes its random choices.

    memory: bytes that a search may hold, None for the default of `fxquant.calibrate`. reconstruction: options of
    `fxquant.reconstruct`, which then follows on the same images; None for none.
    """
    torch.manual_seed(task.seed)
    example = moved(Arguments.of(task.model).bind(next(iter(task.calibration))), task.device, task.dtype)
    if task.dynamic:
        prepared = fxquant.prepare(fxquant.trace(task.model, example, task.dynamic), config)
    else:
        prepared = fxquant.prepare(task.model, config, example)
    start = time.perf_counter()
    limits: dict[str, Any] = {} if memory is None else {"memory": memory}
    fxquant.calibrate(prepared, shard(task.calibration), seed=task.seed, **limits)
    if reconstruction is not None:
        fxquant.reconstruct(prepared, shard(task.calibration), seed=task.seed, **reconstruction)
    return prepared, time.perf_counter() - start


def measure_converted(
    task: Task,
    prepared: fx.GraphModule,
    reference: Evaluation,
    name: str,
    *,
    target: Target,
    strict: bool = False,
    compiled: bool = False,
) -> tuple[fx.GraphModule, Row]:
    """
    Convert a calibrated model to `target`, evaluate it and compare its predictions with those of `reference`.

    compiled: evaluate it under `fxquant.compile`. Raises `FxquantError` where torch.compile fails, and what
    `fxquant.convert` raises.
    """
    gm = fxquant.convert(prepared, target, strict)
    row = measure_graph(task, gm, name, compiled)
    row = replace(row, agreement=measure_agreement(row.evaluation, reference))
    if target == "fake":  # runs on float, with float weights
        row = replace(row, size=None, coverage=None)
    return gm, row


def measure_graph(task: Task, gm: fx.GraphModule, name: str, compiled: bool = False) -> Row:
    """Evaluate a quantised graph, `compiled` as `measure_converted` does; its size is that of its file."""
    runner: Callable[..., Any] = gm
    if compiled:
        example = moved(Arguments.of(gm).tensors(next(iter(task.evaluation))), task.device, task.dtype)
        runner = _pad_batches(gm, compile_model(gm, fxquant.compile, *example), batch_size(example))
    return Row(name, _evaluate(task, runner, name), None, count_file_bytes(gm), fxquant.report(gm).coverage)


def compile_model(model: nn.Module, compiler: Callable[[Any], Any], *inputs: Tensor) -> Callable[..., Any]:
    """Return ``compiler(model)`` after a first call on `inputs`, which compiles; raise `FxquantError` where that fails."""
    compiled: Callable[..., Any] = compiler(model)
    try:
        with torch.no_grad():
            compiled(*inputs)
    except Exception as error:  # dynamo and its backends wrap any exception in many ways
        raise FxquantError(f"torch.compile failed: {_compile_failure(error)}") from error
    return compiled


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of all tensors in the state dict, each storage counted once."""
    tensors = {t.data_ptr(): t for t in model.state_dict().values() if isinstance(t, Tensor)}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _evaluate(task: Task, model: Callable[..., Any], name: str) -> Evaluation:
    batches = shard(task.evaluation)
    return evaluate(model, batches, device=task.device, dtype=task.dtype, description=name, shared=True)


def _pad_batches(gm: fx.GraphModule, compiled: Callable[..., Any], size: int) -> Callable[..., Any]:
    """
    Return `compiled`, which takes what `gm` takes, with a last, smaller batch filled with zeros.

    Another batch size would compile the model again.
    """

    @functools.wraps(gm.forward)
    def run(*inputs: Tensor) -> Any:
        count = batch_size(inputs)
        if count >= size:  # larger where files of the first batch could not be read
            return compiled(*inputs)
        padded = (
            torch.cat((t, t.new_zeros(size - count, *t.shape[1:]))) if has_batch(t, inputs) else t for t in inputs
        )
        return map_output(compiled(*padded), lambda value: value[:count] if isinstance(value, Tensor) else value)

    return run


def _compile_failure(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ == "InvalidCxxCompiler" or "InvalidCxxCompiler" in str(seen):
            return "no C++ compiler"
        seen = seen.__cause__ or seen.__context__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
