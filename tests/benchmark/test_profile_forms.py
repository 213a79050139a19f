"""The forms that are profiled; one that cannot be compiled has a reason instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.benchmark.profile_forms import profile_forms
from fxquant.benchmark.subject import SavedSubject, Subject
from fxquant.inspection.profile import OpClass, Profile


@pytest.mark.usefixtures("eager")
def test_int8_and_bfloat16_eager_and_compiled(
    subject: Subject, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no compiler\nand a trace")

    monkeypatch.setattr(torch, "compile", broken)
    forms = profile_forms(subject, images, rounds=1)
    assert list(forms) == ["fxquant", "fxquant-compile", "bf16", "bf16-compile"]
    assert list(profile_forms(SavedSubject(subject.file()), images, rounds=1)) == ["fxquant", "fxquant-compile"]
    assert forms.pop("bf16-compile") == "RuntimeError: no compiler"
    for profile in forms.values():
        assert isinstance(profile, Profile)
        assert profile.seconds[OpClass.PRODUCTS] > 0
