"""
Which operators of torch compute a value and do nothing else: a rule over their schemas, tags and names.

An overload is in the dialect where it writes to none of its arguments, takes and gives tensors and plain values alone, and
draws no random numbers. Its name has to be none of those below: they say what no schema does, such as that an operator opens
a file, gives out memory that nobody wrote, or trusts an index that a file may choose.
"""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

# The libraries whose operators may be stored: what anyone else registers is code that we do not know.
LIBRARIES = ("aten", "torchvision")

_VALUES = re.compile(r"(Optional\[|List\[)*(Tensor|int|bool|float|number|complex|str|Device)\]*")
_TRAINING = {"train", "training", "dropout_p"}  # an argument that says whether numbers are drawn
NO_OPERATOR = "it is no operator of torch"
_RANDOM = torch.Tag.nondeterministic_seeded
_DEPENDENT = torch.Tag.data_dependent_output

# Why operators are refused by name -> the names, as one pattern.
_NAMES: dict[str, str] = {
    "it reaches files": "from_file",
    "it gives out memory that nobody wrote": "(new_)?empty(_.*)?|resize(_.*)?|set",
    "it reads a tensor's memory in strides of its own": "as_strided(_.*)?",
    "it pins memory": "pin_memory|is_pinned",
    "it trusts numbers or shapes that it is given": (
        "ctc_loss|embedding_bag|segment_reduce|fractional_max_pool.*|lu_solve|linalg_lu_solve|linalg_ldl_solve|lu_unpack|"
        "linalg_eigvals|linalg_lstsq|lcm|lstm|native_batch_norm|range|(ps_)?roi_(pool|align)"
    ),
    "it may compute without end": "combinations|special_.*_polynomial_.*",
    "it is a kernel of another operator": "(slow|thnn)_conv.*|conv_depthwise3d|.*_forward",
    "it belongs to automatic differentiation": (
        ".*_backward(_.*)?|.*_jvp|data|get_gradients|is_inference|is_leaf|output_nr|retains_grad|slice_inverse"
    ),
    "it takes or gives sparse tensors": (
        "(.*_)?sparse(_.*)?|coalesce|is_coalesced|((ccol|col|crow|row)_)?indices(_copy)?|values(_copy)?|dense_dim|to_dense|"
        "hspmm|smm|sspaddmm"
    ),
    "it takes or gives nested tensors": "nested_.*|to_padded_tensor",
    "it takes or gives the quantised tensors of torch": (
        "quantize_.*|quantized_.*|dequantize|q_.*|qscheme|int_repr|fbgemm_.*|choose_qparams_.*"
    ),
    "it belongs to one backend": (
        "(cudnn|miopen|mkldnn|mps)_.*|to_mkldnn|is_vulkan_available|batch_norm_.+|convolution_overrideable"
    ),
    "it is private to torch": "_.*|unsafe_.*",
}
# Of these, what exported models hold none the less.
_EXPORTED = frozenset(
    {
        *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_assert_scalar", "_assert_tensor_metadata", "_conj"),
        *("__and__", "__lshift__", "__or__", "__rshift__", "__xor__"),
        *("_log_softmax", "_safe_softmax", "_softmax", "_to_copy", "_unique2", "_unsafe_view", "lstm.input"),
        *("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact1d"),
        *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    }
)


def operator_named(name: str) -> OpOverload | OpOverloadPacket | None:
    """Return the operator called `name`, such as ``"aten.add.Tensor"``, or ``"aten.add"`` for all overloads of it."""
    library, *parts = name.split(".")
    if library not in LIBRARIES or len(parts) not in (1, 2) or not all(part.isidentifier() for part in parts):
        return None
    found: Any = _library(library)
    for part in parts:
        found = getattr(found, part, None)
    return found if isinstance(found, OpOverload | OpOverloadPacket) and operator_refusal(found) is None else None


def operator_name(operator: OpOverload | OpOverloadPacket) -> str:
    """Return what `operator_named` finds `operator` by."""
    return str(operator) if isinstance(operator, OpOverload) else operator._qualified_op_name.replace("::", ".")


def operator_refusal(operator: OpOverload | OpOverloadPacket) -> str | None:
    """Return why a checkpoint cannot name `operator`, None where it can."""
    library, name, *overload = operator_name(operator).split(".")
    if library not in LIBRARIES:
        return f"only operators of {' and '.join(LIBRARIES)} can be stored, not those that others register"
    if isinstance(operator, OpOverloadPacket):
        return packet_refusal(name, library)
    return _name_refusal(name, *overload) or _schema_refusal(operator)


@cache
def packet_refusal(name: str, library: str = "aten") -> str | None:
    """Return why a call of the operator `name` cannot be stored, whichever overload it chooses; None where it can."""
    # Overloads that write to out= are told from the others by that keyword.
    overloads = [overload for overload in _overloads(name, library) if not _writes_to_out(overload)]
    if not overloads:
        return NO_OPERATOR
    return _name_refusal(name) or next((reason for o in overloads if (reason := _schema_refusal(o))), None)


@cache
def parameters_of(name: str) -> tuple[str, ...]:
    """Return the names of the parameters of the ATen operator `name`, none where its overloads differ in them."""
    schemas = {tuple(a.name for a in o._schema.arguments) for o in _overloads(name, "aten") if not _writes_to_out(o)}
    return schemas.pop() if len(schemas) == 1 else ()


@cache
def results_of(name: str) -> frozenset[str]:
    """Return the names of what the ATen operator `name` returns, such as ``values`` and ``indices``."""
    returns = [result for overload in _overloads(name, "aten") for result in overload._schema.returns]
    return frozenset(result.name for result in returns if result.name)


def _overloads(name: str, library: str) -> list[OpOverload]:
    """Return the overloads of an operator that torch dispatches; others are of TorchScript."""
    packet = getattr(_library(library), name, None)
    if not isinstance(packet, OpOverloadPacket):
        return []
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    return [overload for overload in overloads if _is_dispatched(overload)]


def _is_dispatched(overload: OpOverload) -> bool:
    schema = overload._schema
    return bool(torch._C._dispatch_has_kernel(f"{schema.name}.{schema.overload_name}".removesuffix(".")))


def _name_refusal(name: str, overload: str = "") -> str | None:
    if name in _EXPORTED or f"{name}.{overload}" in _EXPORTED:
        return None
    return next((reason for reason, pattern in _NAMES.items() if re.fullmatch(pattern, name)), None)


def _schema_refusal(overload: OpOverload) -> str | None:
    schema = overload._schema
    if not _is_dispatched(overload):
        return "it is an operator of TorchScript"
    if schema.is_mutable:
        return "it writes to an argument"
    if _RANDOM in overload.tags and not any(argument.name in _TRAINING for argument in schema.arguments):
        return "it draws random numbers"
    odd = [str(v.type) for v in (*schema.arguments, *schema.returns) if not _VALUES.fullmatch(str(v.type))]
    if odd:
        return f"it takes or gives a {odd[0]}"
    return "it gives a number that depends on a tensor's values" if _DEPENDENT in overload.tags else None


def _writes_to_out(overload: OpOverload) -> bool:
    written = [argument for argument in overload._schema.arguments if argument.is_write]
    return bool(written) and all(argument.is_out for argument in written)


def _library(name: str) -> Any:
    """Return the operators of a library of `LIBRARIES`, which is imported where that registers them."""
    if name != "aten":
        with suppress(ImportError):
            importlib.import_module(name)
    return getattr(torch.ops, name)
