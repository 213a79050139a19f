"""
What operators ask of their operands, as shapes and dtypes: torch's implementations, fake ones and Triton's launchers ask it.

The C++ operators ask the same of theirs, in ``fxquant/kernels/cpu/check.h``. Sizes may be symbolic. Each function raises
`InputError`, which says what was expected and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.quantizer import Quantizer

MOST = 2**31 - 1  # elements of a tensor that is copied to be in one piece
DEEPEST = 2**17 - 1  # products of two int8 codes whose sum int32 holds
DEEPEST_ROWS = 2**16  # products of a code and the difference of another and its zero point
Size = int | None  # None: any


def check_tensor(
    name: str, found: Tensor | None, dtype: torch.dtype | None, shape: Sequence[Size] | None = None
) -> None:
    """Check an operand against its dtype, None for any float, and its shape, None for any."""
    if found is None:
        raise InputError(f"{name}: expected a tensor, found None")
    alike = found.dtype.is_floating_point if dtype is None else found.dtype is dtype
    if not alike or (shape is not None and not fits(found.shape, shape)):
        raise misfit(name, found, dtype, "of any shape" if shape is None else str(tuple(shape)).replace("None", "*"))
    check_count(name, found)


def check_optional(name: str, found: Tensor | None, dtype: torch.dtype | None, shape: Sequence[Size]) -> None:
    """Check an operand that may be left out."""
    if found is not None:
        check_tensor(name, found, dtype, shape)


def check_given(**operands: Tensor | None) -> None:
    """Check that no operand is left out: without some of theirs, kernels compute something else."""
    for name, each in operands.items():
        if each is None:
            raise InputError(f"{name}: expected a tensor, found None")


def check_real(name: str, found: Tensor) -> None:
    """Check that an operand of any shape holds numbers that can be compared."""
    if found.is_complex():
        raise misfit(name, found, None, "of any shape")
    check_count(name, found)


def check_count(name: str, found: Tensor) -> None:
    """Check that no tensor is copied that takes more memory in one piece than it can be meant to."""
    count = found.numel()
    if isinstance(count, int) and count > MOST and not found.is_contiguous():
        raise InputError(
            f"{name}: expected at most {MOST} elements, or a contiguous tensor, found {tuple(found.shape)}"
        )


def check_one(name: str, found: Tensor | None, dtype: torch.dtype) -> None:
    """Check an operand of one element, 0-dim or ``(1,)``."""
    if found is None:
        raise InputError(f"{name}: expected a tensor, found None")
    if found.dtype is not dtype or found.dim() > 1 or found.numel() != 1:
        raise misfit(name, found, dtype, "of one element, () or (1,)")


def fits(found: Sequence[Size], wanted: Sequence[Size]) -> bool:
    """Say whether a shape is the one that is wanted."""
    if None not in wanted:
        return found == wanted  # in a tenth of the time
    return len(found) == len(wanted) and all(w is None or f == w for f, w in zip(found, wanted, strict=True))


def misfit(name: str, found: Tensor, dtype: torch.dtype | None, wanted: str) -> InputError:
    """Return the error of an operand that does not fit."""
    expected = "a float dtype" if dtype is None else dtype
    return InputError(f"{name}: expected {expected} {wanted}, found {found.dtype} {tuple(found.shape)}")


def check_range(qmin: int, qmax: int, twin: bool = False) -> None:
    """Check that codes from `qmin` to `qmax` can be stored: as int8, or unsigned as int8 minus 128."""
    least, most = (0, 255) if qmax > 127 and not twin else (-128, 127)
    whole = isinstance(qmin, int | torch.SymInt) and isinstance(qmax, int | torch.SymInt)
    if not (whole and least <= qmin <= qmax <= most):
        raise InputError(f"expected codes from qmin to qmax within [{least}, {most}], found [{qmin}, {qmax}]")


def check_quantizer(quantizer: Quantizer, columns: Size) -> None:
    """Check a quantiser of one scale for values with so many `columns`."""
    q = quantizer
    twin = q.low is not None
    if twin != (q.split is not None) or (twin and q.zero_point is not None):
        raise InputError("expected both a low scale and a split and no zero point, or neither of the two")
    check_range(q.qmin, q.qmax, twin)
    check_one("scale", q.scale, torch.float32)
    if twin:
        check_one("low scale", q.low, torch.float32)
        check_one("split", q.split, torch.float32)
    if q.zero_point is not None:
        check_one("zero point", q.zero_point, torch.int32)
    check_optional("noise", q.noise, torch.float32, (columns,))


def check_result(scale: Tensor | None, *rest: Any, columns: Size) -> None:
    """Check the quantiser of a result: all of it, or nothing where the result stays float."""
    if scale is not None:
        check_quantizer(Quantizer(scale, *rest), columns)
    elif any(each is not None for each in rest[:-2]):
        raise InputError("expected the scale of a quantiser beside its zero point, low scale, split or noise")


def check_along(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> None:
    """Check scale and zero point of `x`: one for all of it, or one for each index of `axis`."""
    if axis is not None and not (isinstance(axis, int) and -x.dim() <= axis < x.dim()):
        raise InputError(f"expected an axis of a tensor of shape {tuple(x.shape)}, found {axis}")
    for name, found, dtype in (("scale", scale, torch.float32), ("zero point", zero_point, torch.int32)):
        if found is zero_point is None:
            continue
        if axis is None or found is None or found.dim() == 0:
            check_one(name, found, dtype)
        else:
            check_tensor(name, found, dtype, (x.shape[axis],))


def check_depth(name: str, depth: Size) -> None:
    """Check that the sums of a product of int8 codes over `depth` elements fit int32."""
    if isinstance(depth, int) and not 0 < depth <= DEEPEST:
        raise InputError(f"{name}: expected a last axis of 1 to {DEEPEST} elements, found {depth}")


def check_codes(codes: Tensor) -> None:
    """Check the codes ``(..., K)`` of an int8 product."""
    if codes.dtype is not torch.int8 or codes.dim() == 0:
        raise misfit("codes", codes, torch.int8, "(..., K)")
    check_count("codes", codes)
    check_depth("codes", codes.shape[-1])


def check_linear(
    codes: Tensor,
    weight: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    *,
    low: Tensor | None = None,
    residual: Tensor | None = None,
    rows: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    """
    Check the operands of `fxquant.ops.int8_linear`, of its twin, and of both with a residual.

    weight: None if packed. rows: scale and zero point of each row of the codes, None where all rows share them.
    """
    check_codes(codes)
    check_tensor("scale", scale, torch.float32, (None,))
    outputs, depth = scale.shape[0], codes.shape[-1]
    if outputs == 0 or not dtype.is_floating_point:
        raise InputError(f"expected a float dtype and at least one output, found {dtype} and {outputs} outputs")
    check_tensor("bias", bias, torch.float32, (outputs,))
    check_optional("low scale", low, torch.float32, (outputs,))
    if weight is not None:
        check_tensor("weight", weight, torch.int8, (None, None))
        if weight.shape[0] < outputs or weight.shape[1] < depth:
            raise misfit("weight", weight, torch.int8, f"of at least ({outputs}, {depth})")
        if weight.is_meta != codes.is_meta:
            raise InputError(f"expected codes and weight on one device, found {codes.device} and {weight.device}")
    check_optional("residual", residual, None, (*codes.shape[:-1], outputs))
    check_row_quantizers(codes, *rows)
    if low is not None and rows[0] is not None:
        raise InputError("expected one scale, or one for each row, of twin-uniform codes only the former")


def check_row_quantizers(codes: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> None:
    """Check what `fxquant.ops.quantize_tokens` gives beside the `codes` ``(..., K)``: both of it, or nothing."""
    if (scale is None) != (zero_point is None):
        raise InputError("expected both scale and zero point of each row, or neither of the two")
    if scale is None:
        return
    check_tensor("scale of each row", scale, torch.float32, codes.shape[:-1])
    check_tensor("zero point of each row", zero_point, torch.int32, codes.shape[:-1])
    if isinstance(codes.shape[-1], int) and codes.shape[-1] > DEEPEST_ROWS:
        raise InputError(f"codes: expected rows of at most {DEEPEST_ROWS} elements, found {codes.shape[-1]}")


def check_float8_scale(codes: Tensor, scale: Tensor, axis: int | None) -> None:
    """Check the scale of float8 `codes`: as `check_along` does, or one for each row, ``(..., 1)``."""
    if axis is None and scale.dim() > 1:
        check_tensor("scale of each row", scale, torch.float32, (*codes.shape[:-1], 1))
    else:
        check_along(codes, scale, None, axis)


def check_float8_linear(
    codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, row_scale: Tensor | None
) -> None:
    """Check the operands of `fxquant.ops.float8_linear`."""
    check_rows(codes, torch.float8_e4m3fn)
    check_tensor("scale", scale, torch.float32, (None,))
    outputs, depth = scale.shape[0], codes.shape[-1]
    if outputs == 0 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InputError(f"expected float32, bfloat16 or float16 and at least one output, found {dtype} and {outputs}")
    check_tensor("bias", bias, torch.float32, (outputs,))
    check_tensor("weight", weight, torch.float8_e4m3fn, (None, None))
    if weight.shape[0] < outputs or weight.shape[1] < depth:
        raise misfit("weight", weight, torch.float8_e4m3fn, f"of at least ({outputs}, {depth})")
    if weight.is_meta != codes.is_meta:
        raise InputError(f"expected codes and weight on one device, found {codes.device} and {weight.device}")
    check_optional("scale of each row", row_scale, torch.float32, (*codes.shape[:-1], 1))


def check_rows(x: Tensor, dtype: torch.dtype | None = None) -> None:
    """Check values ``(..., C)`` of a dtype, or None for any float, C at least 1."""
    alike = x.dtype is dtype or (dtype is None and x.dtype.is_floating_point)
    if not alike or x.dim() == 0 or x.shape[-1] == 0:
        raise misfit("values", x, dtype, "(..., C), C at least 1")
    check_count("values", x)


def check_layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, dtype: torch.dtype | None = None
) -> None:
    """Check a layer norm of ``(..., C)``, of a dtype or None for any float, over the last axis."""
    check_rows(x, dtype)
    check_optional("weight of a layer norm", weight, None, x.shape[-1:])
    check_optional("bias of a layer norm", bias, None, x.shape[-1:])
    if not 0 <= epsilon <= torch.finfo(torch.float32).max:
        raise InputError(f"expected an epsilon that is finite and not negative, found {epsilon}")


def check_attention(q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Tensor | None, mask: Tensor | None) -> None:
    """Check queries ``(B, H, N, D)``, keys ``(B, H, M, D)`` and values, and what goes into scores ``(N, M)``."""
    if not abs(factor) <= torch.finfo(torch.float32).max:
        raise InputError(f"expected a finite factor of scores, found {factor}")
    check_tensor("queries", q, None, (None, None, None, None))
    if q.shape[3] == 0:
        raise misfit("queries", q, None, "(*, *, *, D), D at least 1")
    check_tensor("keys", k, q.dtype, (*q.shape[:2], None, q.shape[3]))
    if k.shape[2] == 0:
        raise misfit("keys", k, q.dtype, "(*, *, M, *), M at least 1")
    check_tensor("values", v, q.dtype, k.shape)
    scores = (q.shape[2], k.shape[2])
    check_optional("bias of scores", bias, None, (None, *scores))
    check_optional("mask of scores", mask, None, (None, *scores))
    if bias is not None and bias.shape[0] not in (1, q.shape[1]):
        raise misfit("bias of scores", bias, None, f"for one head or for {q.shape[1]}")
    if mask is not None and (mask.shape[0] == 0 or q.shape[0] % mask.shape[0] != 0):
        raise misfit("mask of scores", mask, None, f"for windows that divide a batch of {q.shape[0]}")


def check_product(a: Tensor, b: Tensor) -> None:
    """Check codes ``(..., N, K)`` and ``(..., K, M)`` of an int8 product, whose leading axes broadcast."""
    for name, each in (("left", a), ("right", b)):
        if each.dtype is not torch.int8 or each.dim() < 2:
            raise misfit(name, each, torch.int8, "(..., rows, columns)")
        check_count(name, each)
    check_depth("left", a.shape[-1])
    if a.shape[-1] != b.shape[-2]:
        raise misfit("right", b, torch.int8, f"(..., {a.shape[-1]}, *)")


def check_per_head(
    scale: Tensor, low: Tensor | None, a_zero_point: Tensor | None, b_zero_point: Tensor | None, batch: Sequence[Size]
) -> None:
    """Check constants of a product with the leading axes `batch`: of one element, or ``(H, 1, 1)`` where H is one of these."""
    check_given(scale=scale)
    named = (
        ("scale", scale),
        ("low scale", low),
        ("left zero point", a_zero_point),
        ("right zero point", b_zero_point),
    )
    for name, found in named:
        if found is None:
            continue
        dtype = torch.float32 if "scale" in name else torch.int32
        axis = len(batch) + 2 - found.dim()  # the one that the first of `found` is along
        heads = 0 <= axis < len(batch) and found.shape[0] == batch[axis] and math.prod(found.shape[1:]) == 1
        if found.dtype is not dtype or axis < 0 or not (heads or found.numel() == 1):
            raise misfit(name, found, dtype, f"of one element, or (H, 1, 1) for one axis of {tuple(batch)}")


def check_matmul(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    low: Tensor | None,
    a_zero_point: Tensor | None,
    b_zero_point: Tensor | None,
    dtype: torch.dtype,
) -> None:
    """Check the operands of `fxquant.ops.int8_matmul` and of its twin, whose scale of the low range is `low`."""
    check_product(a, b)
    try:
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError as error:
        raise InputError(
            f"expected leading axes that broadcast, found {tuple(a.shape)} and {tuple(b.shape)}"
        ) from error
    if not dtype.is_floating_point:
        raise InputError(f"expected a float dtype, found {dtype}")
    check_per_head(scale, low, a_zero_point, b_zero_point, batch)
