"""Where blocks of a graph begin and end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph.dataflow import PRODUCTS, is_size
from fxquant.reconstruction.blocks import features_of, find_blocks
from fxquant.reconstruction.evaluator import Evaluator
from tests.support.models import Conditioned, conditions, images, small_swin, small_vit


def prepared_for(model: nn.Module, example: Any = None) -> fx.GraphModule:
    return fxquant.prepare(
        model.eval(), fxquant.recipe("minmax", 4, 4, attention=True), images(2) if example is None else example
    )


def labels(gm: fx.GraphModule) -> list[str]:
    return [block.label for block in find_blocks(gm)]


def test_blocks_of_a_vit() -> None:
    assert labels(prepared_for(small_vit())) == [
        "patch_embed.proj",
        "blocks.0.attn.qkv to blocks.0.mlp.fc2",
        "blocks.1.attn.qkv to blocks.1.mlp.fc2",
        "head",
    ]


def test_patch_merging_belongs_to_the_block_before() -> None:
    gm = prepared_for(small_swin())
    assert labels(gm) == [
        "patch_embed.proj",
        "layers.0.blocks.0.attn.qkv to layers.0.blocks.0.mlp.fc2",
        "layers.0.blocks.1.attn.qkv to layers.1.downsample.reduction",
        "layers.1.blocks.0.attn.qkv to layers.1.blocks.0.mlp.fc2",
        "layers.1.blocks.1.attn.qkv to layers.1.blocks.1.mlp.fc2",
        "head.fc",
    ]
    assert_each_product_in_one_block(gm)


def test_every_product_is_in_one_block() -> None:
    assert_each_product_in_one_block(prepared_for(small_vit(class_token=False, global_pool="avg")))


def test_a_chain_without_sums_has_a_block_for_each_product() -> None:
    assert labels(prepared_for(Chain(), torch.zeros(2, 8))) == ["0", "1", "2"]


def test_a_mask_may_reach_every_block() -> None:
    gm = prepared_for(Conditioned(), conditions())
    assert_each_product_in_one_block(gm)


def test_the_feature_is_what_the_head_reads() -> None:
    (feature,) = features_of(prepared_for(small_vit()))
    assert feature.meta["val"].shape[1:] == (32,)


def test_without_a_head_the_feature_is_the_result() -> None:
    gm = prepared_for(small_vit(num_classes=0))
    assert features_of(gm) == (gm.graph.output_node().args[0],)


def test_the_blocks_together_compute_what_the_model_does() -> None:
    model, batch = small_vit(), images(3)
    gm = prepared_for(model)
    run, inputs = Evaluator(gm), [n for n in gm.graph.nodes if n.op == "placeholder"]
    known: dict[fx.Node, Tensor] = {inputs[0]: batch}
    for block in find_blocks(gm):
        values = run.values(block.targets, known)
        known = {inputs[0]: batch, block.targets[0]: values[0]}
    torch.testing.assert_close(values[0], model(batch))
    assert not any(int(m.batches) for n, m in gm.named_modules() if n.endswith("_input") and hasattr(m, "batches"))


def assert_each_product_in_one_block(gm: fx.GraphModule) -> None:
    run, inputs = Evaluator(gm), [n for n in gm.graph.nodes if n.op == "placeholder"]
    found: list[fx.Node] = []
    sizes = [n for n in gm.graph.nodes if is_size(n)]
    for block in find_blocks(gm):
        known = [*inputs, *sizes, *([] if block.source is None else [block.source])]
        found += [n for n in run.nodes_between(block.targets, known) if n.target in PRODUCTS]
    assert found == [n for n in gm.graph.nodes if n.target in PRODUCTS]


class Chain(nn.Sequential):
    """Three linear layers."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 4)`` of ``(B, 8)``."""
        y: Tensor = self[2](F.gelu(self[1](F.gelu(self[0](x)))))
        return y
