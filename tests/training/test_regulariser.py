"""The variation-aware regulariser against the published values, and a loop over the codes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

import fxquant
from fxquant import LayerSpec, LearnedStep, TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.graph.trained import weight_quantizers
from fxquant.training.regulariser import regulariser_weight, variation_regulariser

RECORDED = load_file(Path(__file__).parents[1] / "data" / "vvtq_quant.safetensors")
CASES = sorted(m[0] for k in RECORDED if (m := re.match(r".*/binreg_\w+/", k)))


def prepared(weight: Tensor, scale: Tensor, bits: int) -> fx.GraphModule:
    """Return a model with one layer of that weight and step."""
    layer: nn.Module
    if weight.dim() == 4:
        layer, images = nn.Conv2d(3, 8, 4, stride=4, bias=False), torch.randn(2, 3, 8, 8)
    else:
        layer, images = nn.Linear(20, 12, bias=False), torch.randn(2, 20)
    with torch.no_grad():
        layer.weight.copy_(weight)  # type: ignore[operator]
    gm = fxquant.prepare_qat(nn.Sequential(layer).eval(), fxquant.recipe("vvtq", bits, bits, trunk_bits=bits))
    fxquant.calibrate(gm.eval(), [images], progress=False)
    ((module, _),) = weight_quantizers(gm)
    with torch.no_grad():
        module.scale.copy_(scale.reshape(1))
    return gm.train()


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_the_published_ones(case: str) -> None:
    bits = int(re.search(r"/b(\d)/", case)[1])  # type: ignore[index]
    base = case.rsplit("binreg", 1)[0]
    weight = RECORDED[f"{base}w"] if case.startswith("conv") else RECORDED[f"{base.rsplit('/', 2)[0]}/w"]
    scale = RECORDED.get(f"{base}alpha", RECORDED[f"{base}alpha_init"])[bits - 2]
    gm = prepared(weight, scale, bits)
    value = variation_regulariser(gm, published="equality" in case or case.startswith("conv"))
    torch.autograd.backward(value)
    ((module, parameter),) = weight_quantizers(gm)
    assert float(value.detach()) == pytest.approx(float(RECORDED[f"{case}value"]), rel=1e-5)
    wanted = RECORDED[f"{case}grad_w"]
    assert parameter.grad is not None
    assert module.scale.grad is not None
    assert (parameter.grad - wanted).norm() < 1e-5 * wanted.norm()
    assert float(module.scale.grad) == pytest.approx(float(RECORDED[f"{case}grad_alpha"][bits - 2]), rel=1e-4, abs=1e-7)


def by_loops(gm: fx.GraphModule) -> Tensor:
    total = torch.zeros(())
    for module, weight in weight_quantizers(gm):
        qmin, qmax = -(2 ** (module.spec.bits - 1)), 2 ** (module.spec.bits - 1) - 1
        for row, scale in zip(module.rows_of(weight).reshape(module.scale.numel(), -1), module.scale, strict=True):
            clipped = (row / scale).clamp(qmin, qmax) * scale
            codes = (clipped / scale).detach().round()
            total = total + ((codes * scale).detach() - clipped).square().mean()
            for code in range(qmin, qmax + 1):
                members = clipped[codes == code]
                if len(members) > 1:
                    total = total + members.var()
    return total


def test_groups_of_rows_and_all_layers_count_alone() -> None:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3).eval()
    gm = fxquant.prepare_qat(model, fxquant.recipe("vvtq", 3, 3))
    fast, slow = variation_regulariser(gm), by_loops(gm)
    assert torch.allclose(fast, slow, rtol=1e-5)
    weights = [weight for _, weight in weight_quantizers(gm)]
    for own, reference in zip(torch.autograd.grad(fast, weights), torch.autograd.grad(slow, weights), strict=True):
        # The loop gives a weight on a bound all of its gradient, the published minimum half.
        assert (own - reference).norm() < 1e-4 * reference.norm()


def test_the_schedule_is_the_published_one() -> None:
    values = [regulariser_weight(epoch, 150) for epoch in range(150)]
    assert values == pytest.approx(RECORDED["reg_lambda/values64"].tolist(), abs=1e-12)
    assert regulariser_weight(10, 10, final=0.5) == pytest.approx(0.5)
    assert math.isclose(regulariser_weight(6.25, 10), 0.005)


def test_a_model_without_steps_is_refused() -> None:
    with pytest.raises(TypeError, match="prepare_qat"):
        variation_regulariser(fxquant.prepare(nn.Linear(2, 2).eval()))


def test_learned_inputs_of_float_weights_are_no_steps_of_weights() -> None:
    step = TensorSpec(4, signed=True, symmetric=True, observer=LearnedStep())
    gm = fxquant.prepare_qat(nn.Linear(4, 2).eval(), QuantConfig(LayerSpec(weight=None, activation=step)))
    with pytest.raises(TypeError, match="no weight with a learned step"):
        variation_regulariser(gm)


def test_binary_weights_add_nothing() -> None:
    config = fxquant.recipe("vvtq", 1, 4)
    one = QuantConfig(config.layer, trunk=config.layer)
    binary = fxquant.prepare_qat(nn.Linear(4, 2).eval(), one)
    assert not list(weight_quantizers(binary))
    assert float(variation_regulariser(binary)) == 0
