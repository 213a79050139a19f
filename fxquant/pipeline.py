"""
The passes, in order, and the loop that runs them.

Set the environment variable ``FXQUANT_TRACE=dir`` to write the graph after each pass to ``dir/NN_<pass>.txt``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import fx

from fxquant.config.folds import Folds
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import FxquantError, PassError, UnsupportedGraphError
from fxquant.graph.attributes import prune
from fxquant.graph.rewrite import Pass
from fxquant.graph.stages import Stage, set_stage
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import SeenInput
from fxquant.passes.add_drop_path import AddDropPath
from fxquant.passes.add_noise import add_noise
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.cast_floats import CastFloats
from fxquant.passes.center_residual import center_residual
from fxquant.passes.correct_bias import correct_bias
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.dequantize_late import dequantize_late
from fxquant.passes.end_training import end_training
from fxquant.passes.expand_addmm import expand_addmm
from fxquant.passes.expand_einsum import expand_einsum
from fxquant.passes.fold_batch_norm import fold_batch_norm
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.fold_layer_scale import fold_layer_scale
from fxquant.passes.fold_noise import fold_noise
from fxquant.passes.fold_norm_affine import fold_norm_affine
from fxquant.passes.fold_sizes import fold_sizes
from fxquant.passes.functionalize import functionalize
from fxquant.passes.fuse_attention import fuse_attention
from fxquant.passes.fuse_gelu import fuse_gelu
from fxquant.passes.fuse_layer_norm import fuse_layer_norm
from fxquant.passes.fuse_residual import fuse_residual
from fxquant.passes.guard_inputs import GuardInputs
from fxquant.passes.insert_observers import insert_observers
from fxquant.passes.keep_float32 import keep_float32
from fxquant.passes.linearize_matmul import linearize_matmul
from fxquant.passes.lower_convolution import lower_convolution
from fxquant.passes.lower_float8 import lower_float8
from fxquant.passes.lower_linear import lower_linear
from fxquant.passes.lower_matmul import lower_matmul
from fxquant.passes.observe_values import ObserveValues
from fxquant.passes.own_products import own_products
from fxquant.passes.place_token_scales import place_token_scales
from fxquant.passes.quantize_early import quantize_early
from fxquant.passes.quantize_operands import quantize_operands
from fxquant.passes.record_inputs import RecordInputs
from fxquant.passes.reparameterize_norms import ReparameterizeNorms
from fxquant.passes.restore_float import RestoreFloat
from fxquant.passes.rotate_heads import RotateHeads
from fxquant.passes.rotate_residual import RotateResidual
from fxquant.passes.scale_scores import scale_scores
from fxquant.passes.simulate_products import simulate_products
from fxquant.passes.smooth_norms import SmoothNorms
from fxquant.passes.spell_convolutions import spell_convolutions
from fxquant.passes.train_batch_norms import train_batch_norms
from fxquant.passes.use_cpu_kernels import use_cpu_kernels
from fxquant.passes.use_onednn import UseOnednn
from fxquant.spec import verify

TRACE: tuple[Pass, ...] = (
    functionalize,  # first: what follows moves and drops nodes, which only values allow
    canonicalize,
    expand_einsum,
    expand_addmm,
    own_products,  # last: it names the products that the others spell
)


def prepare_passes(config: QuantConfig) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.prepare`."""
    cast: tuple[Pass, ...] = () if config.float_dtype is None else (CastFloats(config.float_dtype),)
    values: tuple[Pass, ...] = () if config.placement is None else (ObserveValues(config.placement),)
    return (
        *cast,
        fold_constants,  # before annotate: a product of parameters alone is no product at run time
        fold_batch_norm,  # after fold_constants: its statistics are tensors by now
        spell_convolutions,  # after fold_batch_norm: what it spells hides the layer from the norm
        linearize_matmul,  # after fold_constants: a transposed or sliced weight is one tensor by now
        *fold_passes(config.folds or Folds()),  # after the constants are tensors, before observers see the weights
        Annotate(config),
        decompose_attention,  # after annotate: only what the config quantises is opened
        *values,  # after decompose_attention: scores and probabilities are values by now
        insert_observers,
        RecordInputs(config.strict_inputs),  # last: by its observers it tells a mask from an image
    )


def fold_passes(folds: Folds) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.prepare` that need no data: each leaves a model that computes the same."""
    stream = folds.center or folds.rotate
    return (
        *(
            (fold_layer_scale,) if folds.layer_scale or stream else ()
        ),  # first: a factor is no writer of the residual stream
        *(
            (fold_norm_affine,) if folds.affine or stream else ()
        ),  # before what turns channels that scale and shift tell apart
        *((center_residual,) if folds.center else ()),
        *((RotateResidual(folds.seed),) if folds.rotate else ()),
        *((RotateHeads(folds.seed),) if folds.rotate_heads else ()),
    )


def norm_passes(observers: Mapping[str, Observer]) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.calibrate` that fold norms; observers: what saw each channel, by the name of the norm."""
    return ReparameterizeNorms(observers), SmoothNorms(observers)  # each does what the records ask it for


def qat_passes(config: QuantConfig, drop_path: float) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.prepare_qat`: parameters stay parameters, so nothing is folded."""
    return (
        Annotate(config),
        decompose_attention,
        scale_scores,  # before insert_observers, after annotate: of quantised products alone
        insert_observers,
        RecordInputs(config.strict_inputs),  # after insert_observers: by these it tells a mask from an image
        train_batch_norms,
        AddDropPath(drop_path),  # after decompose_attention: it tells branches by the products in them
    )


# Of a graph that was trained, before CONVERT.
END_TRAINING: tuple[Pass, ...] = (
    end_training,
    fold_constants,
)

CONVERT: tuple[Pass, ...] = (
    place_token_scales,  # before quantize_operands: each observer then knows its granularity
    correct_bias,  # before add_noise: a denoised bias is no tensor of the model any more
    add_noise,
    quantize_operands,
    dequantize_late,
    keep_float32,  # last: it asks what becomes codes
)

LOWER: tuple[Pass, ...] = (
    fold_noise,  # first: an int8 product needs a constant bias
    lower_linear,
    lower_convolution,
    lower_matmul,
    lower_float8,
)

# After LOWER: what stands around the products moves into them, so that activations travel as int8.
FUSE: tuple[Pass, ...] = (
    fold_sizes,  # first: a size read from a norm's result keeps that result alive
    fuse_attention,
    quantize_early,  # before fuse_layer_norm: it brings the quantiser next to the norm
    fuse_layer_norm,
    fuse_gelu,
    fuse_residual,
)


def guard(seen: tuple[SeenInput, ...]) -> tuple[Pass, ...]:
    """Return what ends `fxquant.convert`, whatever the target; seen: what calibration saw of each input."""
    return (GuardInputs(seen),)  # behind all others, to which the image has no other readers


# Of a graph at either stage behind convert, for programs that know no int8 products.
SIMULATE: tuple[Pass, ...] = (simulate_products,)
# Of such a graph, for quantisers that add no noise.
WITHOUT_NOISE: tuple[Pass, ...] = (*SIMULATE, fold_noise)  # behind it, as it looks for a constant bias


def compile_for_cpu(onednn: frozenset[str], own: bool) -> tuple[Pass, ...]:
    """
    Return the passes of `fxquant.compile` on x86.

    onednn: the labels of the linear layers that go to oneDNN. own: whether fxquant's own kernels run here.
    """
    # In this order: what the first leaves goes to the second.
    return (UseOnednn(onednn), use_cpu_kernels) if own else (UseOnednn(onednn),)


def compile_for_cuda(slower: Mapping[str, str]) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.compile` on CUDA; slower: the labels of layers that lose as int8 -> the reason."""
    return (RestoreFloat(slower),)


def run(gm: fx.GraphModule, passes: Sequence[Pass], stage: Stage) -> fx.GraphModule:
    """Run `passes` in order on `gm`, which brings it to `stage`; verify after each one; drop unused tensors at the end."""
    for index, each in enumerate(passes):
        name = pass_name(each)
        try:
            gm = each(gm).graph_module
        except FxquantError:
            raise
        except Exception as error:
            raise PassError(name, "-", "", f"{type(error).__name__}: {error}") from error
        _dump(gm, name)  # before the check, so that an illegal graph can be read
        try:
            verify(gm, stage, complete=index == len(passes) - 1)
        except UnsupportedGraphError as error:
            raise PassError(name, "-", "", f"it left a graph that is not legal: {error}") from error
    prune(gm)
    set_stage(gm, stage)
    return gm


def pass_name(each: Pass) -> str:
    """Return the name of a pass: a function's own, or its class's in snake case."""
    return str(getattr(each, "__name__", re.sub(r"(?<=.)(?=[A-Z])", "_", type(each).__name__).lower()))


def _dump(gm: fx.GraphModule, name: str) -> None:
    folder = os.environ.get("FXQUANT_TRACE")
    if not folder:
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    index = len(list(path.glob("[0-9]*_*.txt")))
    text = gm.print_readable(print_output=False)
    (path / f"{index:02d}_{name}.txt").write_text(text)
