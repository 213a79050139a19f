"""Bit operations of learned widths."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import fx

import fxquant
from fxquant.errors import ConfigError
from fxquant.training.bit_budget import bit_operations

N, C, H, HIDDEN, CLASSES = 5, 16, 2, 64, 3


def prepared(**options: object) -> fx.GraphModule:
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=C, depth=1, num_heads=H, num_classes=CLASSES).eval()
    return fxquant.prepare_qat(model, fxquant.recipe("vvtq", 4, 3, **options))


def by_hand(w: float, a: float, trunk: float = 8.0) -> float:
    """Return the published count for one block: each product by its widths."""
    linear = (3 * N * C * C + N * C * C + 2 * N * C * HIDDEN) * w * a
    attention = 2 * N * N * C * a * a
    return (linear + attention + (4 * C * 3 * 64 + C * CLASSES) * trunk * trunk) / 1e9


def test_counts_each_product_by_the_widths_of_both_operands() -> None:
    gm = prepared()
    gm.eval()(torch.randn(7, 3, 16, 16))
    assert float(bit_operations(gm)) == pytest.approx(by_hand(4, 3), rel=1e-6)


def test_learned_widths_have_gradients() -> None:
    gm = prepared(learned_bits=True)
    gm.eval()(torch.randn(2, 3, 16, 16))
    assert gm.train().training
    with torch.no_grad():
        for name, p in gm.named_parameters():
            if name.endswith("bits"):
                p.fill_(5.2)
    total = bit_operations(gm)
    assert gm.training
    assert float(total.detach()) == pytest.approx(by_hand(5, 5, trunk=5), rel=1e-6)
    torch.autograd.backward(total)
    bits = gm.get_parameter("observers.blocks_0_mlp_fc1_weight.bits")
    assert bits.grad is not None
    assert float(bits.grad) == pytest.approx(N * C * HIDDEN * 5 / 1e9, rel=1e-5)


def test_one_bit_counts_as_one() -> None:
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=C, depth=1, num_heads=H, num_classes=CLASSES).eval()
    gm = fxquant.prepare_qat(model, fxquant.recipe("vvtq", 1, 3))
    gm.eval()(torch.randn(2, 3, 16, 16))
    assert float(bit_operations(gm)) == pytest.approx(by_hand(1, 3), rel=1e-6)


def test_a_model_that_has_not_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="run the model on a batch"):
        bit_operations(prepared())
