"""
Arithmetic that the kernels share, with the steps and the roundings of `fxquant.numerics.arithmetic` and of torch's
operators.

Compilers merge a product and the sum after it into one operation with one rounding. `multiply` prevents that, so that
float32 results have the same bits as those of separate operators.
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
# 1.5 * 2^23: what is added to it is rounded to an integer, half to even, which then stands in the low bits.
MAGIC = tl.constexpr(12582912.0)
MAGIC_BITS = tl.constexpr(0x4B400000)
SQRT_HALF = tl.constexpr(0.7071067811865476)
SQRT_8_OVER_PI = tl.constexpr(1.5957691216057308)

# What a kernel is told of a dtype, a GELU and a quantiser.
FLOAT32, BFLOAT16, FLOAT16 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NO_GELU, GELU_ERF, GELU_TANH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NO_CODES, UNIFORM, TWIN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def multiply(x, y):
    """Return ``x * y``, rounded on its own."""
    return x * y if INTERPRETED else libdevice.mul_rn(x, y)


@triton.jit
def divide(x, scale, reciprocal):
    """
    Return ``x / scale``, correctly rounded, given ``1 / scale``, correctly rounded.

    One Newton step on the remainder (Markstein 1990) takes a third of the instructions of a division. It needs a fused
    multiply-add that rounds once, which some releases of Triton's interpreter do not have.
    """
    if INTERPRETED:
        quotient = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    else:
        quotient = x * reciprocal
        quotient = tl.fma(tl.fma(-quotient, scale, x), reciprocal, quotient)
    return quotient


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """Return float32 `x` rounded to the dtype that values have between two operators."""
    if DTYPE == BFLOAT16 and INTERPRETED:  # the interpreter cuts bits off where devices round half to even
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).to(tl.float32, bitcast=True)
    elif DTYPE == BFLOAT16:
        x = x.to(tl.bfloat16).to(tl.float32)
    elif DTYPE == FLOAT16:
        x = x.to(tl.float16).to(tl.float32)
    return x


@triton.jit
def gelu(x, KIND: tl.constexpr):
    """
    Return GELU of float32 `x`: by the error function, or by its approximation with tanh, computed as a logistic function.
    """
    if KIND == GELU_ERF:
        y = x * 0.5 * (1.0 + tl.erf(x * SQRT_HALF))
    else:
        y = x / (1.0 + tl.exp((x + 0.044715 * x * x * x) * -SQRT_8_OVER_PI))
    return y


@triton.jit
def to_code(steps, QMIN: tl.constexpr, QMAX: tl.constexpr):
    """Return ``clamp(round(steps), qmin, qmax)`` as it is stored: unsigned 8-bit codes are stored minus 128."""
    steps = tl.minimum(tl.maximum(steps, QMIN * 1.0), QMAX * 1.0)
    code = (steps + MAGIC).to(tl.int32, bitcast=True) - MAGIC_BITS
    if QMAX > 127:
        code = code - 128
    return code.to(tl.int8)


@triton.jit
def quantize(
    x,
    noise,
    scale_ptr,
    zero_point_ptr,
    low_ptr,
    split_ptr,
    CODES: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    NOISE: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
):
    """Return the int8 codes of float32 `x`; noise has the shape of `x`, or one that broadcasts to it."""
    if NOISE:
        x = x + noise
    scale = tl.load(scale_ptr)
    reciprocal = tl.div_rn(1.0, scale)
    if CODES == TWIN:
        low = tl.load(low_ptr)
        above = x >= tl.load(split_ptr)
        reciprocal = tl.where(above, reciprocal, tl.div_rn(1.0, low))
        scale = tl.where(above, scale, low)
    steps = divide(x, scale, reciprocal)
    if ZERO_POINT:
        steps = steps + tl.load(zero_point_ptr).to(tl.float32)
    return to_code(steps, QMIN, QMAX)
