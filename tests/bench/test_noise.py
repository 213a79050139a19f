"""What a noise costs: the forms that are timed differ by the noise alone."""

from __future__ import annotations

import pytest
from torch import fx

import fxquant
from bench import noise
from fxquant.ops import quantize
from tests.support.tiers import keep_quick


@pytest.mark.parametrize("form", keep_quick(noise.FORMS, "with noise"))
def test_the_forms_differ_by_the_noise_alone(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[fx.GraphModule] = []
    convert = fxquant.convert

    def kept(prepared: fx.GraphModule) -> fx.GraphModule:
        built.append(convert(prepared))
        return built[-1]

    monkeypatch.setattr(fxquant, "convert", kept)
    assert noise.build("test_vit", 1, noise.FORMS[form], compiled=False)().shape[0] == 1
    noisy = [n for n in built[0].graph.nodes if n.target is quantize and len(n.args) > 6]
    assert bool(noisy) == (form == "with noise")
