"""The four verbs, trace, prepare, calibrate and convert, and the one-liner over them."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fxquant import pipeline
from fxquant.calibration.observe_norms import has_norm_folds, observe_norms
from fxquant.calibration.restored import restored_on_failure
from fxquant.calibration.run_batches import collect_batches, run_batches, take_first
from fxquant.calibration.searches import has_searches, run_searches
from fxquant.calibration.weight_fits import forget_fits, has_fits, run_fits
from fxquant.checkpoint import load
from fxquant.compiling.compile import CompiledGraph, compile_graph
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import recipe as make_recipe
from fxquant.config.recipes.default import Effort, effort_of
from fxquant.config.trainable import refuse_untrainable
from fxquant.distributed import refuse_different
from fxquant.errors import (
    CalibrationError,
    ConfigError,
    InputError,
    UnsupportedGraphError,
    expect_iterable,
    expect_whole,
)
from fxquant.graph.attributes import called_module, own_tensors
from fxquant.graph.card import used_recipe
from fxquant.graph.inputs import Arguments, Batch, moved
from fxquant.graph.meta import card_of, model_dtype, record_of, refuse_training, set_card
from fxquant.graph.shapes import propagate_shapes
from fxquant.graph.stages import Stage, stage_of
from fxquant.graph.trained import is_trained
from fxquant.inspection.report import report
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.reconstruction import reconstruct
from fxquant.tracing.capture import capture, check_model
from fxquant.tracing.free_sizes import Dynamic

Target = Literal["int8", "fake"]


def trace(model: nn.Module, example_inputs: Batch | None = None, dynamic: Dynamic = ()) -> fx.GraphModule:
    """
    Return the graph of `model` in the functional dialect, batch size free; `model` is left as it is.

    The graph is compared with the model, at two batch sizes, before it is returned: what symbolic tracing gets wrong is
    captured by `torch.export`, and what both get wrong is refused.

    example_inputs: a batch of images ``(B, 3, H, W)``, the tuple of arguments, or a mapping by their names: see
    `fxquant.graph.inputs.Arguments`, the one rule of what a batch means. With it every node knows its shape. The tensors in it
    are the inputs of the graph; other arguments keep the value that they have in the example, or their default where it leaves
    them out. None: an image of the size that the model or its config declares, or of 224 pixels; where the model takes none of
    these, the graph is not compared, and `fxquant.report` says so.

    dynamic: ``("height", "width")``, or one of them, for a graph that takes images of any size that the model takes; or, as in
    `torch.export`, for each argument by name ``{axis: torch.export.Dim}``. The graph is compared at several sizes.

    Raises `UnsupportedGraphError` naming the module and source line that cannot be followed, `InputError` for a model in
    training mode or of an unsupported dtype, and for an example that is not what the model takes.
    """
    if isinstance(model, fx.GraphModule) and stage_of(model) not in (None, Stage.FLOAT):
        _expect(model, Stage.FLOAT, "trace", "a model")
    gm = capture(model, example_inputs, dynamic)
    if example_inputs is not None:
        propagate_shapes(gm, _inputs(model, example_inputs))
    return gm


def prepare(
    gm_or_module: nn.Module,
    config: QuantConfig | None = None,
    example_inputs: Batch | None = None,
) -> fx.GraphModule:
    """
    Return a copy of the model with an observer on each operand that `config` quantises.

    gm_or_module: a graph from `trace`, or any module, which is traced first. config: a `QuantConfig`, a
    ``torch.ao.quantization`` ``QConfigMapping`` or ``QConfig``; None is ``recipe("default")``. Running the result on images
    calibrates it.

    Raises `ConfigError` for any other config, and for one that overrides a module or expression that matches no product.
    """
    gm, config = gm_or_module, _as_config(config)
    if not isinstance(gm, fx.GraphModule) or stage_of(gm) is None:
        gm = trace(gm_or_module, example_inputs)
        if config.float_dtype is not None:
            gm = copy.deepcopy(gm)  # the cast is in place, and a traced graph shares the tensors of its model
    else:
        _expect(gm, Stage.FLOAT, "prepare", "a graph from fxquant.trace, or a module")
        gm = copy.deepcopy(gm)
        if example_inputs is not None:
            propagate_shapes(gm, _inputs(gm, example_inputs))
    refuse_training(gm)  # its constants are folded
    return pipeline.run(gm, pipeline.prepare_passes(config), Stage.PREPARED)


def prepare_qat(
    gm_or_module: nn.Module,
    config: QuantConfig | None = None,
    example_inputs: Batch | None = None,
    drop_path: float = 0.0,
) -> fx.GraphModule:
    """
    Return a copy of the model to be trained with quantised operands, in training mode.

    gm_or_module, example_inputs: as for `prepare`, in eval mode. config: None is ``recipe("vvtq", 4, 4)``. drop_path: the rate
    at which the branches of the last block are dropped; earlier ones are dropped less. The parameters of the result are those
    of the model, and the steps, offsets and bit widths that are learned; the first batch it runs on sets the steps of the
    activations, before which no `DistributedDataParallel` can hold it. Train it as any module, then `convert` it.

    Raises `ConfigError` for a config in which any operand has no learned step, and for a rate outside [0, 1), and
    `UnsupportedGraphError` for a model that is not float32.
    """
    config = make_recipe("vvtq", 4, 4) if config is None else _as_config(config)
    if not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
        raise ConfigError(f"drop_path must lie in [0, 1), got {drop_path!r}")
    refuse_untrainable(config)
    if not isinstance(gm_or_module, fx.GraphModule) or stage_of(gm_or_module) is None:
        gm = copy.deepcopy(trace(gm_or_module, example_inputs))
    else:
        _expect(gm_or_module, Stage.FLOAT, "prepare_qat", "a graph from fxquant.trace, or a module")
        gm = copy.deepcopy(gm_or_module)
        if example_inputs is not None:
            propagate_shapes(gm, _inputs(gm, example_inputs))
    if model_dtype(gm) is not torch.float32:
        raise UnsupportedGraphError(
            f"prepare_qat expected a float32 model, found {model_dtype(gm)}: use model.float(), and train under torch.autocast"
        )
    return pipeline.run(gm, pipeline.qat_passes(config, drop_path), Stage.PREPARED).train()


def calibrate(
    prepared: fx.GraphModule,
    batches: Iterable[Batch],
    progress: bool = True,
    *,
    memory: int = 2 * 1024**3,
    seed: int = 0,
) -> fx.GraphModule:
    """
    Show `prepared` the calibration `batches` and return it; statistics add to those it holds.

    batches: any iterable of image tensors ``(B, 3, H, W)``, of ``(images, targets)`` pairs, of tuples of several inputs, or of
    mappings by the names of the model's arguments: see `fxquant.graph.inputs.Arguments`. Where the config asks for it, norms
    are folded first, once, by what these batches show of their channels, which leaves what `prepared` computes as it is;
    scales and noisy biases are then searched on these batches, and weights are fitted to them. memory: bytes that this may
    hold beyond the model and the images; what is more goes to temporary files. seed fixes its random choices. Interrupted, it
    leaves `prepared` as it was.

    In a process group of ``torch.distributed`` every rank calls this, with its own share of the batches: every
    ``world_size``-th from its rank on. The result is the same on all of them, and that of one process over all batches in
    order. Ranks share out the batches where statistics are taken, the products where searches read the float model, and the
    candidates of each search where they read quantised products; all else of a search runs on every rank, and so do fits.

    Raises `CalibrationError` where there is no batch, or one that is empty, not finite or of another shape, and where all
    batches are one constant; it names the node and the batch. An input that only masks scores before a softmax may hold
    infinities. Of several ranks all raise what the first one did.
    """
    _expect(prepared, Stage.PREPARED, "calibrate", "a graph from fxquant.prepare")
    _refuse_single(batches)
    expect_whole("memory", memory, least=1)
    expect_whole("seed", seed, least=0)
    refuse_different(prepared)
    if has_norm_folds(prepared):
        batches = list(batches)  # they are read once to fold, and once more
        observers = observe_norms(prepared, collect_batches(prepared, batches), progress)
        pipeline.run(prepared, pipeline.norm_passes(observers), Stage.PREPARED)
    if has_fits(prepared):
        batches = list(batches)  # they are read once for statistics or searches, and once for the weights
        with restored_on_failure(prepared):
            forget_fits(prepared)
            _observe(prepared, batches, progress, memory, seed)
            run_fits(prepared, collect_batches(prepared, batches), progress, memory)
    else:
        _observe(prepared, batches, progress, memory, seed)
    for recorder in _recorders(prepared):
        recorder.refuse_constant()
    return prepared


def convert(prepared: fx.GraphModule, target: Target = "int8", strict: bool = False) -> fx.GraphModule:
    """
    Return the quantised copy of a calibrated model.

    target: "int8" runs each linear layer, convolution and product of attention whose operands are quantised as an integer
    product, or as a float8 product where the config asks for e4m3 codes; "fake" keeps quantise / dequantise pairs around float
    products, for any bits. Both give equal codes for equal inputs. strict: raise `UnsupportedGraphError` where anything the
    config asked for stays float.

    Raises `CalibrationError` naming the node where the model was not calibrated.
    """
    _refuse_target(target)
    _expect(prepared, Stage.PREPARED, "convert", "a graph from fxquant.prepare that was calibrated")
    inputs = _recorded_inputs(prepared)
    seen = tuple(recorder.seen() for recorder in _recorders(prepared))
    # Most weights end as int8: the copy shares them with the prepared model until it is known which stay.
    shared = (*prepared.parameters(), *prepared.buffers())
    gm = copy.deepcopy(prepared, {id(t): t for t in shared}).eval()
    set_card(gm, replace(card_of(gm), accuracy=None, versions=()))  # those of the model that it is made of
    if is_trained(gm):
        gm = pipeline.run(gm, pipeline.END_TRAINING, Stage.PREPARED)
    propagate_shapes(gm, inputs)
    gm = pipeline.run(gm, pipeline.CONVERT, Stage.QUANTISED)
    if target == "int8":
        gm = pipeline.run(gm, pipeline.LOWER, Stage.LOWERED)
        propagate_shapes(gm, inputs)
        gm = pipeline.run(gm, pipeline.FUSE, Stage.LOWERED)
    own_tensors(gm, shared)
    propagate_shapes(gm, inputs)
    gm = pipeline.run(gm, pipeline.guard(seen), Stage.LOWERED if target == "int8" else Stage.QUANTISED)
    if strict:
        _refuse_float(gm, target)
    return gm


def quantize(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: str | QuantConfig = "default",
    w_bits: int = 8,
    a_bits: int = 8,
    target: Target = "int8",
    seed: int = 0,
    dynamic: Dynamic = (),
    progress: bool = True,
    effort: Effort | str | None = None,
    **options: Any,
) -> fx.GraphModule:
    """
    Trace, prepare, calibrate and convert `model` in one call.

    recipe, w_bits, a_bits and options are those of `fxquant.recipe`; recipe may also be a config, which has its own bits and
    options. dynamic is that of `trace`. batches are those of `calibrate`; the first one is the example input for tracing, read
    by the rule of `fxquant.graph.inputs.Arguments`. seed fixes every random choice of the recipe. progress: whether to show how
    far it has come. effort: of the default recipe, "fast", "better" (None) or "best", see
    `fxquant.config.recipes.default.Effort`. The name of a recipe is noted on the card of the result: see
    `fxquant.checkpoint.staged_graph.StagedGraph`.
    """
    if effort is not None:
        options = options | {"effort": effort_of(effort).value}
    if isinstance(recipe, QuantConfig):
        _refuse_options(w_bits, a_bits, options)
        config = recipe
    else:
        config = make_recipe(recipe, w_bits, a_bits, **options)
    _refuse_target(target)
    check_model(model)
    _refuse_single(batches)
    expect_whole("seed", seed, least=0)
    iterator = iter(batches)
    taken, example = take_first(model, iterator)
    if example is None:
        raise CalibrationError("expected at least one calibration batch, found none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parameter = next(model.parameters(), None)
        if parameter is not None:
            example = moved(example, parameter.device, parameter.dtype)
        prepared = prepare(trace(model, example, dynamic), config) if dynamic else prepare(model, config, example)
        shown: Iterable[Batch] = itertools.chain(taken, iterator)
        shown = list(shown) if config.reconstruction else shown
        calibrate(prepared, shown, progress, seed=seed)
        if config.reconstruction:
            reconstruct(prepared, shown, progress, seed=seed, iterations=config.reconstruction)
        gm = convert(prepared, target)
    if not isinstance(recipe, QuantConfig):
        set_card(gm, replace(card_of(gm), recipe=used_recipe(recipe, w_bits, a_bits, options)))
    return gm


def compile(
    gm_or_path: fx.GraphModule | str | os.PathLike[str],
    backend: str = "auto",
    example_inputs: Batch | None = None,
    device: torch.device | str | None = None,
) -> CompiledGraph:
    """
    Return a graph under `torch.compile` with the settings that are best on the device, for inference.

    gm_or_path: a graph, which is left as it is, or a file of `fxquant.save`. Of a file each weight is given up as soon as it is
    packed, so that no more than the file has to fit into memory. backend: "auto" runs a model converted to int8 on the kernels
    made for the device: on x86 processors with AVX2 those of `fxquant.kernels.cpu`, or oneDNN's where it measures faster; on
    CUDA those of `fxquant.kernels.triton`. "aten" uses nothing but torch's own operators, `torch._int_mm` among them. On a CPU
    weights are packed here: weights that change later are not seen. example_inputs: a batch of the size that will run, where
    that is not the size that calibrated the model; it decides what is measured. On CUDA, layers that int8 makes slower at that
    size then go back to float. `fxquant.report` of the result tells what runs on which kernel and why. device: where the
    tensors of a file go, None for the CPU.

    Raises `ConfigError` for any other backend, `UnsupportedGraphError` for what is no graph, `InputError` for a device beside a
    graph, and what `fxquant.load` raises for a file.
    """
    gm: fx.GraphModule
    if isinstance(gm_or_path, str | os.PathLike):
        gm, owned = load(gm_or_path, device or "cpu").eval(), True
    elif device is None:
        gm, owned = gm_or_path, False
    else:
        raise InputError("device is for a file: move the tensors of a graph by gm.to(device)")
    inputs = None if example_inputs is None else _inputs(gm, example_inputs)
    return compile_graph(gm, backend, inputs, owned)


def _observe(prepared: fx.GraphModule, batches: Iterable[Batch], progress: bool, memory: int, seed: int) -> None:
    """Take the statistics of the batches, and search what is searched for."""
    if has_searches(prepared):
        run_searches(prepared, collect_batches(prepared, batches), progress, memory, seed)
    else:
        run_batches(prepared, batches, progress)


def _refuse_options(w_bits: int, a_bits: int, options: dict[str, Any]) -> None:
    """Raise where a call gives a config what only a recipe takes."""
    given = [*(["w_bits"] if w_bits != 8 else []), *(["a_bits"] if a_bits != 8 else []), *options]
    if given:
        raise ConfigError(
            f"expected a config alone, found {', '.join(given)} beside it: a config has its own bits and options; give "
            f"these to fxquant.recipe, or the name of a recipe in place of the config"
        )


def _as_config(config: Any) -> QuantConfig:
    if config is None:
        return make_recipe("default")
    if isinstance(config, QuantConfig):
        return config
    from fxquant.config.torch_ao import from_torch_ao

    return from_torch_ao(config)


def _expect(gm: nn.Module, stage: Stage, verb: str, wanted: str) -> None:
    found = stage_of(gm) if isinstance(gm, fx.GraphModule) else None
    if found is not stage:
        what = f"a graph at stage {found.value}" if found else f"a {type(gm).__name__} that fxquant did not make"
        raise UnsupportedGraphError(f"{verb} expected {wanted}, found {what}")


def _refuse_target(target: object) -> None:
    if target not in ("int8", "fake"):
        raise ConfigError(f"unknown target {target!r}: expected 'int8' or 'fake'")


def _refuse_single(batches: object) -> None:
    expect_iterable(batches, "an iterable of calibration batches", CalibrationError)
    if isinstance(batches, Tensor | Mapping | str):
        kind = type(batches).__name__
        raise CalibrationError(f"expected an iterable of calibration batches, found a {kind}: give a list, [batch]")


def _inputs(model: nn.Module, example_inputs: Batch) -> tuple[Any, ...]:
    """Return the inputs of the graph of `model`, which may be that graph, in order."""
    arguments = Arguments.of(model)
    return arguments.inputs(arguments.bind_example(example_inputs))


def _recorders(prepared: fx.GraphModule) -> list[InputRecorder]:
    """Return the recorders of the inputs of a prepared graph, in order."""
    modules = (called_module(n) for n in prepared.graph.nodes)
    return [m for m in modules if isinstance(m, InputRecorder)]


def _recorded_inputs(prepared: fx.GraphModule) -> list[Tensor]:
    """Return stand-ins on the meta device for the inputs that calibration saw."""
    modules = [module for n in prepared.graph.nodes if (module := called_module(n)) is not None]
    observed = next((m for m in modules if isinstance(m, Observer) and not m.calibrated), None)
    for node in prepared.graph.nodes:
        _refuse_unsearched(node)
    recorders = _recorders(prepared)
    if observed is not None:
        observed.calculate_qparams()  # raises, naming the node
    if any(not int(r.batches) for r in recorders):
        raise CalibrationError(
            "the model was never calibrated: run fxquant.calibrate(prepared, batches) before convert"
        )
    for recorder in recorders:
        recorder.refuse_constant()
    return [r.example() for r in recorders]


def _refuse_unsearched(node: fx.Node) -> None:
    record = record_of(node)
    if record is not None and record.fold is not None:
        raise CalibrationError(
            f"node {record.label!r}: this recipe folds norms, which running the model does not do: run "
            "fxquant.calibrate(prepared, batches) before convert"
        )
    if record is None or (record.search is None and record.noise is None and record.fit is None):
        return
    operands = [called_module(argument) for argument in node.args[: len(record.operands)]]
    found = operands if record.search or record.noise else operands[1:]
    for module in found:
        if isinstance(module, Observer) and not (module.refined or module.at_run_time):
            what = "searches scales" if record.search or record.noise else "fits weights"
            raise CalibrationError(
                f"node {module.operand!r}: this recipe {what}, which running the model does not do: run "
                "fxquant.calibrate(prepared, batches) before convert"
            )


def _refuse_float(gm: fx.GraphModule, target: str) -> None:
    kept = [r for r in report(gm) if r.requested and (r.codes is None if target == "int8" else r.reason is not None)]
    if kept:
        lines = "\n".join(f"  {r.name}: {r.reason}" for r in kept)
        raise UnsupportedGraphError(f"strict: {len(kept)} products the config asked to quantise stay float:\n{lines}")
