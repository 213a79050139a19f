"""`end_training` takes out what only training needs, and fixes what it learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

import fxquant
from fxquant.config.operands import TensorSpec
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.observers import LearnedStepQuantizer, Observer
from fxquant.passes.end_training import end_training
from tests.support.check_pass import assert_close, check_unchanged, render

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def prepared(drop_path: float = 0.2, **options: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3).eval()
    gm = fxquant.prepare_qat(model, fxquant.recipe("vvtq", options.pop("w_bits", 4), 4, **options), drop_path=drop_path)
    fxquant.calibrate(gm.eval(), [IMAGES], progress=False)
    return gm


def settled(gm: fx.GraphModule) -> fx.GraphModule:
    """Return a copy after the pass, which gives the same, and changes nothing a second time."""
    import copy

    changed = end_training(copy.deepcopy(gm))
    assert changed.modified
    assert not end_training(changed.graph_module).modified
    assert_close(gm, changed.graph_module, (IMAGES,), 1e-6)
    return changed.graph_module


def test_drop_path_is_gone() -> None:
    gm = prepared()
    assert "drop_path" in render(gm)
    assert "drop_path" not in render(settled(gm))


def test_batch_norms_are_functions_again() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(900, 3)).eval()
    gm = fxquant.prepare_qat(model, fxquant.recipe("vvtq", 4, 4))
    fxquant.calibrate(gm.eval(), [IMAGES], progress=False)
    gm.train()(IMAGES * 2)
    assert "F.batch_norm" in render(settled(gm.eval()))


def test_a_graph_without_any_stays() -> None:
    check_unchanged(end_training, prepared(drop_path=0.0), (IMAGES,), Stage.PREPARED)


def test_learned_bits_become_those_of_specs_and_records() -> None:
    gm = prepared(learned_bits=True)
    quantizers = {
        n: m for n, m in gm.get_submodule("observers").named_children() if isinstance(m, LearnedStepQuantizer)
    }
    with torch.no_grad():
        for index, module in enumerate(quantizers.values()):
            assert module.bits is not None
            several = torch.tensor([2.4, 5.6, 7.0])
            module.bits.copy_(several if len(module.bits) > 1 else torch.tensor([3.0 + index % 4]))
    after = settled(gm)
    modules = {
        n: m for n, m in after.get_submodule("observers").named_children() if isinstance(m, LearnedStepQuantizer)
    }
    assert all(m.bits is None and m.scale.dim() == 1 for m in modules.values())
    assert modules["blocks_0_attn_qkv_weight"].spec.bits == 7  # the widest of query, key and value
    for node in after.graph.nodes:
        record = record_of(node)
        for argument, operand in zip(node.args, record.operands if record else (), strict=False):
            assert isinstance(operand.spec, TensorSpec)
            observer = called_module(argument)
            assert isinstance(observer, Observer)
            assert operand.spec == observer.spec
    int8 = fxquant.convert(gm)
    assert_close(gm, int8, (IMAGES,), 1e-5)
    assert fxquant.report(int8).coverage == 1.0


def test_a_real_offset_becomes_a_bias() -> None:
    config = fxquant.recipe("vvtq", 4, 4, real_offset=True)  # only what GELU gives has one
    torch.manual_seed(0)
    model = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3).eval()
    gm = fxquant.prepare_qat(model, config)
    fxquant.calibrate(gm.eval(), [IMAGES], progress=False)
    with torch.no_grad():
        for name, parameter in gm.named_parameters():
            if name.endswith("offset"):
                parameter.fill_(-0.0123)
    expected: Tensor = gm(IMAGES)
    for target in ("fake", "int8"):
        found = fxquant.convert(gm, target)(IMAGES)  # type: ignore[arg-type]
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_a_real_offset_of_queries_is_refused_by_name() -> None:
    gm = prepared(offset=True, real_offset=True)
    with pytest.raises(UnsupportedGraphError, match=r"blocks\.0\.attn\.qk\.query.*real_offset=False"):
        fxquant.convert(gm)


def test_one_bit_is_two_values_and_runs_on_int8() -> None:
    gm = prepared(drop_path=0.0, w_bits=1)  # so that nothing but the weights makes the pass change anything
    after = settled(gm)
    weight = after.get_buffer("blocks.0.mlp.fc1.weight_settled")
    assert len(weight.unique()) == 2
    int8 = fxquant.convert(gm)
    assert fxquant.report(int8).coverage == 1.0
    assert_close(gm, int8, (IMAGES,), 1e-5)
