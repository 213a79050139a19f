"""Torch's small values (dtypes, layouts, memory formats, devices) and floats by name, as JSON can hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from fxquant.errors import CheckpointError

Json = Any  # None, bool, int, float, str, list or dict of them: whatever json.loads returns
Value = TypeVar("Value")

_DTYPE_NAMES = (
    *("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"),
    *("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64", "complex64", "complex128"),
)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _DTYPE_NAMES}
LAYOUTS: dict[str, torch.layout] = {"strided": torch.strided}
MEMORY_FORMATS: dict[str, torch.memory_format] = {
    name: getattr(torch, name) for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d{1,3})?")
_LARGEST = 2**64


def lookup(table: Mapping[str, Value], name: object, what: str) -> Value:
    """Return the entry `name` of a table of torch values."""
    found = table.get(name) if isinstance(name, str) else None
    if found is None:
        raise CheckpointError(f"expected a {what}, found {name!r:.100}")
    return found


def dtype_named(name: object) -> torch.dtype:
    """Return the dtype called `name`, such as ``"float32"``."""
    return lookup(DTYPES, name, "dtype")


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype that checkpoints can hold."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(f"values of dtype {dtype} cannot be stored")
    return name


def device_named(name: object) -> torch.device:
    """Return the device called `name`, such as ``"cuda:0"``."""
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise CheckpointError(f"expected a device, found {name!r:.100}")
    return torch.device(name)


def encode_float(value: float) -> Json:
    """Return a float as JSON, which has no infinity and no NaN of its own."""
    return value if math.isfinite(value) else {"float": str(value)}


def decode_float(name: object) -> float:
    """Return the float that `encode_float` named."""
    return lookup({name: float(name) for name in ("inf", "-inf", "nan")}, name, "float")


def encode_complex(value: complex) -> Json:
    """Return a complex number as its two parts; raise `CheckpointError` where one is not finite, which no source can say."""
    parts = [value.real, value.imag]
    if not all(math.isfinite(part) for part in parts):
        raise CheckpointError(f"expected a finite complex number, found {value}")
    return {"complex": parts}


def decode_complex(parts: object) -> complex:
    """Return the complex number that `encode_complex` took apart."""
    if not isinstance(parts, list) or len(parts) != 2 or not all(type(p) is float and math.isfinite(p) for p in parts):
        raise CheckpointError(f"expected two parts of a complex number, found {parts!r:.100}")
    return complex(*parts)


def checked_int(value: int) -> int:
    """Return `value` where it fits 64 bits; no shape, index or code is larger."""
    if abs(value) > _LARGEST:
        raise CheckpointError("expected an integer of at most 64 bits")
    return value


def field(data: Json, key: str, expected: type[Value]) -> Value:
    """Return ``data[key]`` where it is there and of the type `expected`."""
    found = data.get(key) if isinstance(data, dict) else None
    if type(found) is not expected:
        raise CheckpointError(f"expected {key!r} to be of type {expected.__name__}, found {found!r:.100}")
    return found


def shape_of(data: Json) -> tuple[int, ...]:
    """Return the shape that a list of numbers stands for."""
    if not isinstance(data, list) or not all(type(n) is int and 0 <= n < _LARGEST // 2 for n in data):
        raise CheckpointError(f"expected a shape, found {data!r:.100}")
    return tuple(data)
