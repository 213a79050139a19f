"""The profiles that ``fxquant bench --profile`` shows: int8 and bfloat16, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fxquant
from fxquant.benchmark.profile_compiled import profile_compiled
from fxquant.benchmark.subject import Subject
from fxquant.inspection.profile import Profile, profile_graph


def profile_forms(subject: Subject, images: Tensor, rounds: int = 5) -> dict[str, Profile | str]:
    """
    Return the profiles of the int8 model, whose rest is float32, and of the bfloat16 model, by the competitor's name.

    images: float32 ``(B, C, H, W)``. Of a saved model there is no bfloat16 form.

    Where a form cannot be compiled here, the reason stands in place of its profile.
    """
    plain = images.to(subject.device)
    brain = plain.to(torch.bfloat16)

    def compiled_bfloat16() -> Callable[[Tensor], Tensor]:
        return torch.compile(subject.model(torch.bfloat16))

    def compiled_int8() -> Callable[[Tensor], Tensor]:
        return fxquant.compile(subject.file(), device=subject.device)

    forms: dict[str, Profile | str] = {
        "fxquant": profile_graph(subject.quantized(), (plain,), rounds),
        "fxquant-compile": _try_compiled(compiled_int8, plain, rounds),
    }
    if subject.has_float:
        forms["bf16"] = profile_graph(fxquant.trace(subject.model(torch.bfloat16), brain), (brain,), rounds)
        forms["bf16-compile"] = _try_compiled(compiled_bfloat16, brain, rounds)
    return forms


def _try_compiled(build: Callable[[], Callable[[Tensor], Tensor]], images: Tensor, rounds: int) -> Profile | str:
    try:
        return profile_compiled(build, images, rounds)
    except Exception as error:  # dynamo and its backends wrap any exception in many ways
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
