"""
The passes, in order, and the loop that runs them.

Set the environment variable ``FXQUANT_TRACE=dir`` to write the graph after each pass to ``dir/NN_<pass>.txt``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from torch import fx

from fxquant.attributes import prune
from fxquant.config import QuantConfig
from fxquant.errors import FxquantError, PassError, UnsupportedGraphError
from fxquant.passes.add_noise import add_noise
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.correct_bias import correct_bias
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.expand_einsum import expand_einsum
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.fold_noise import fold_noise
from fxquant.passes.functionalize import functionalize
from fxquant.passes.insert_observers import insert_observers
from fxquant.passes.linearize_matmul import linearize_matmul
from fxquant.passes.lower_convolution import lower_convolution
from fxquant.passes.lower_linear import lower_linear
from fxquant.passes.lower_matmul import lower_matmul
from fxquant.passes.quantize_operands import quantize_operands
from fxquant.passes.use_onednn import use_onednn
from fxquant.rewrite import Pass
from fxquant.spec import Stage, verify

TRACE: tuple[Pass, ...] = (
    functionalize,  # first: what follows moves and drops nodes, which only values allow
    canonicalize,
    expand_einsum,
)


def prepare_passes(config: QuantConfig) -> tuple[Pass, ...]:
    """Return the passes of `fxquant.prepare`."""
    return (
        fold_constants,  # before annotate: a product of parameters alone is no product at run time
        linearize_matmul,  # after fold_constants: a transposed or sliced weight is one tensor by now
        Annotate(config),
        decompose_attention,  # after annotate: only what the config quantises is opened
        insert_observers,
    )


CONVERT: tuple[Pass, ...] = (
    correct_bias,  # first: a denoised bias is no tensor of the model any more
    add_noise,
    quantize_operands,
)

LOWER: tuple[Pass, ...] = (
    fold_noise,  # first: an int8 product needs a constant bias
    lower_linear,
    lower_convolution,
    lower_matmul,
)

# fxquant.compile on x86: pays only once a compiler has packed the weights.
COMPILE_CPU: tuple[Pass, ...] = (use_onednn,)


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
    gm.meta["stage"] = stage
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
