"""`GuardInputs`: what is not finite or far out of range never gives a plausible result."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph.stages import Stage
from fxquant.observers.input_recorder import SeenInput
from fxquant.ops import check_input, check_values, mark_invalid
from fxquant.passes.guard_inputs import GuardInputs
from fxquant.spec import verify
from tests.support.check_pass import module_of
from tests.support.models import Conditioned, conditions

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAN, INFINITE = float("nan"), float("inf")


class Classifier(nn.Module):
    """Patches, their mean and a head; a choice of what is returned."""

    def __init__(self, returns: str = "logits") -> None:
        super().__init__()
        self.embed, self.head, self.returns = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), returns

    def forward(self, x: Tensor) -> Any:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        logits = self.head(tokens.mean(1))
        both = {"logits": logits, "tokens": (tokens, tokens.sum())}
        return {"logits": logits, "both": both, "label": logits.argmax(1)}[self.returns]


def quantized(model: nn.Module | None = None, target: Any = "int8", **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    return fxquant.quantize((model or Classifier()).eval(), [IMAGES], "minmax", target=target, **options)


def spoilt(value: float, image: int = 1) -> Tensor:
    images = IMAGES.clone()
    images[image, 2, 5, 7] = value
    return images


@pytest.mark.parametrize("target", ["int8", "fake"])
@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
def test_an_image_that_is_not_finite_gives_nan_and_no_other_does(target: str, value: float) -> None:
    gm = quantized(target=target)
    expected, found = gm(IMAGES), gm(spoilt(value))
    assert found[1].isnan().all()
    others = torch.tensor([0, 2, 3])
    assert torch.equal(found[others], expected[others])


def test_every_result_is_marked_where_it_belongs() -> None:
    gm = quantized(Classifier("both"))
    found = gm(spoilt(NAN, image=3))
    tokens, total = found["tokens"]
    assert found["logits"].isnan().all(1).tolist() == [False, False, False, True]
    assert tokens.isnan().flatten(1).all(1).tolist() == [False, False, False, True]
    assert total.isnan()
    assert all(not t.isnan().any() for t in (gm(IMAGES)["logits"], *gm(IMAGES)["tokens"]))


def test_a_label_cannot_be_nan() -> None:
    gm = quantized(Classifier("label"))
    assert gm(IMAGES).shape == (4,)
    with pytest.raises(fxquant.InputError, match="'x': expected finite values, found NaN or infinite"):
        gm(spoilt(NAN))


def test_strict_inputs_are_refused() -> None:
    gm = quantized(strict_inputs=True)
    gm(IMAGES)
    with pytest.raises(fxquant.InputError, match="'x': expected finite values, found NaN or infinite"):
        gm(spoilt(INFINITE))
    with pytest.raises(fxquant.InputError, match=r"values lie in .* to 2\d\d\.?\d*, those of the calibration in -"):
        gm(IMAGES.abs() * 70)
    with pytest.raises(fxquant.ConfigError, match="strict_inputs must be"):
        fxquant.recipe("minmax", strict_inputs=1)


def test_another_range_is_told_once() -> None:
    gm = quantized()
    with pytest.warns(UserWarning, match=r"input 'x': its values lie in 0\.\d+ to .* normalise the images as there"):
        wide = gm(IMAGES.abs() * 77)
    assert wide.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(gm(IMAGES.abs() * 77), wide)


def test_pixels_of_0_to_1_in_a_model_of_0_to_255_are_told(recwarn: pytest.WarningsRecorder) -> None:
    pixels = IMAGES.sub(IMAGES.min()).div(IMAGES.max() - IMAGES.min())
    gm = fxquant.quantize(Classifier().eval(), [pixels * 255], "minmax")
    gm(pixels[:1] * 255)
    gm(pixels * 128 + 64)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="its values lie in 0 to 1, those of the calibration in 0 to 255"):
        gm(pixels)


def test_whole_numbers_are_refused() -> None:
    gm = quantized()
    with pytest.raises(fxquant.InputError, match=r"expected floating values .* found torch.uint8: normalise"):
        gm(IMAGES.abs().to(torch.uint8))


def test_survives_a_file_copies_and_compilation(tmp_path: Path) -> None:
    gm = quantized(strict_inputs=False)
    fxquant.save(gm, tmp_path / "model.safetensors")
    loaded = fxquant.load(tmp_path / "model.safetensors")
    for each in (loaded, copy.deepcopy(gm), torch.compile(gm, backend="aot_eager")):
        assert each(spoilt(NAN)).isnan().all(1).tolist() == [False, True, False, False]
        assert torch.equal(each(IMAGES), gm(IMAGES))


def test_a_prepared_graph_keeps_what_it_saw_in_a_file(tmp_path: Path) -> None:
    prepared = fxquant.prepare(Classifier().eval(), fxquant.recipe("minmax", strict_inputs=True), IMAGES)
    fxquant.calibrate(prepared, [IMAGES], progress=False)
    fxquant.save(prepared, tmp_path / "model.safetensors")
    gm = fxquant.convert(fxquant.load(tmp_path / "model.safetensors"))
    with pytest.raises(fxquant.InputError, match="normalise the images as there"):
        gm(IMAGES * 100)


def test_masks_and_indices_pass_unseen() -> None:
    gm = fxquant.quantize(Conditioned().eval(), [conditions()], "minmax")
    (checked,) = [n for n in gm.graph.nodes if n.target is check_values]
    assert checked.args[3] == "tokens"
    tokens, index, mask = conditions()
    tokens[2] = NAN
    rows = gm(tokens, index, mask).flatten(1).isnan().all(1)
    assert rows.tolist() == [False, False, True, False]


def test_the_graph() -> None:
    gm = fx.symbolic_trace(module_of(lambda self, x: x * 2))
    (x,) = [n for n in gm.graph.nodes if n.op == "placeholder"]
    with gm.graph.inserting_after(x):
        checked = gm.graph.call_function(check_input, (x, (None, 4), "x"))
    x.replace_all_uses_with(checked, delete_user_cb=lambda user: user is not checked)
    for node in gm.graph.nodes:
        node.meta["val"] = torch.empty(2, 4, device="meta")
    result = GuardInputs((SeenInput("x", (-1.0, 2.0), False, False),))(gm)
    assert result.modified
    nodes = list(result.graph_module.graph.nodes)
    assert [n.target for n in nodes if n.op == "call_function"][1:] == [check_values, nodes[3].target, mark_invalid]
    assert nodes[2].args == (nodes[1], -1.0, 2.0, "x", False, True)
    assert nodes[-1].args == (nodes[-2],)
    assert nodes[-2].args == (nodes[3], nodes[2], True)


def test_gradients_of_inputs_pass() -> None:
    gm, images = quantized(target="fake"), IMAGES.clone().requires_grad_()
    verify(gm, Stage.QUANTISED)
    gm(images).sum().backward()
