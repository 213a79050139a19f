"""Tensors and facts in one safetensors file that is whole or not there; reading it runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxquant.errors import FxquantError, reason_of
from fxquant.files import write_atomically


def write_tensors(
    file: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], error: type[FxquantError]
) -> None:
    """Write `tensors` and `facts` as a file of `kind`; raise `error` where that fails."""
    held = {
        name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()
    }  # safetensors wants memory apart
    try:
        metadata = {kind: json.dumps(facts, allow_nan=False)}
        write_atomically(file, lambda name: save_file(held, name, metadata))
    except (OSError, SafetensorError, ValueError, TypeError) as reason:
        raise error(f"cannot write {str(file)!r}: {reason_of(reason)}") from reason


def read_tensors(file: Path, kind: str, error: type[FxquantError]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file of `kind`; raise `error` where it is no such file."""
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            text = (opened.metadata() or {}).get(kind)
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(text) if text is not None else None
    except (OSError, SafetensorError, ValueError) as reason:
        raise error(f"cannot read {str(file)!r} as a safetensors file: {reason_of(reason)}") from reason
    if not isinstance(facts, dict):
        raise error(f"{str(file)!r} is a safetensors file, but none of the kind expected here: it lacks {kind!r}")
    return tensors, facts
