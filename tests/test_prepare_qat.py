"""`prepare_qat`, training and `convert`: whole models, from Python."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, LayerSpec, LearnedStep, TensorSpec, UnsupportedGraphError
from fxquant.models import SReT
from fxquant.numerics.arithmetic import sqnr
from fxquant.numerics.learned_step import initial_weight_scale
from fxquant.observers import LearnedStepQuantizer, Observer
from fxquant.training.regulariser import variation_regulariser
from tests.support.tiers import keep_quick

SMALL_SRET: dict[str, Any] = {
    **{"image_size": 32, "base_dims": (4, 4), "heads": (2, 4), "depth": (2, 2), "recursive_num": (1, 1)},
    **{"num_classes": 3, "groups1": (4, 1), "groups2": (2, 1)},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "sret":
        return SReT(**SMALL_SRET).eval()
    if name == "swin":
        kwargs: dict[str, Any] = {
            "window_size": 4,
            "embed_dim": 16,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "patch_size": 4,
        }
        return timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=3, **kwargs).eval()
    kwargs = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=3, **kwargs).eval()


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))


def trained(model: nn.Module, steps: int = 3, **options: Any) -> fx.GraphModule:
    prepared = fxquant.prepare_qat(model, fxquant.recipe("vvtq", 4, 4, **options), drop_path=0.1)
    fxquant.calibrate(prepared.eval(), [images()], progress=False)
    optimizer = torch.optim.SGD(prepared.train().parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(prepared(images()).square().mean())
        optimizer.step()
    return prepared.eval()


TRAINED = product(["deit", "swin", "sret"], ["plain", "offset", "learned_bits"])


@pytest.mark.parametrize(
    ("name", "option"), keep_quick(TRAINED, ("deit", "plain"), ("deit", "offset"), ("sret", "learned_bits"))
)
def test_a_trained_model_converts_to_what_it_was(name: str, option: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if option == "plain" else {option: True}
    prepared = trained(build(name), **options)
    before = {n: t.clone() for n, t in prepared.state_dict().items()}
    x = images(3)
    with torch.no_grad():
        expected = prepared(x)
        fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
        assert torch.equal(fake(x), expected)
        assert (int8(x) - expected).norm() < 1e-5 * expected.norm()
        for gm in (prepared, int8):
            fxquant.save(gm, tmp_path / "model.safetensors")
            assert torch.equal(fxquant.load(tmp_path / "model.safetensors")(x), gm(x))
    report = fxquant.report(int8)
    left = {r.name: r.reason for r in report.records if not r.int8}
    assert set(left) == ({"pools.0.conv"} if name == "sret" else set())
    assert all("groups" in str(reason) for reason in left.values())
    after = prepared.state_dict()
    changed = [n for n, t in before.items() if not torch.equal(t, after[n])]
    assert all(n.startswith("observers.input_") and n.endswith(".batches") for n in changed)


def test_it_can_be_trained_on_after_it_was_saved(tmp_path: Path) -> None:
    prepared = trained(build("sret"))
    fxquant.save(prepared.train(), tmp_path / "qat.safetensors")
    loaded = fxquant.load(tmp_path / "qat.safetensors")
    assert loaded.training
    results = []
    for gm in (prepared, loaded):
        torch.manual_seed(3)
        out = gm(images())
        torch.autograd.backward(out.sum())
        results.append((out.detach(), {n: p.grad for n, p in gm.named_parameters() if p.grad is not None}))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()


def test_low_bit_weights_are_packed_in_files(tmp_path: Path) -> None:
    sizes = []
    for bits in (8, 4):
        prepared = fxquant.prepare_qat(build("deit"), fxquant.recipe("vvtq", bits, 8, trunk_bits=bits))
        fxquant.calibrate(prepared.eval(), [images()], progress=False)
        file = tmp_path / f"{bits}.safetensors"
        fxquant.save(fxquant.convert(prepared, "fake"), file)
        sizes.append(file.stat().st_size)
    weights = sum(p.numel() for n, p in build("deit").named_parameters() if p.dim() in (2, 4) and "head" not in n)
    assert sizes[0] - sizes[1] > 0.4 * weights


def test_every_parameter_of_the_model_stays_one_and_the_model_as_it_was() -> None:
    model = build("swin")
    before = copy.deepcopy(model.state_dict())
    prepared = trained(model)
    own = {n for n, _ in prepared.named_parameters() if not n.startswith("observers.")}
    assert own == {n for n, _ in model.named_parameters()}
    assert all(p.grad is not None for p in prepared.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_a_block_that_runs_twice_has_one_set_of_steps() -> None:
    prepared = trained(build("sret"))
    calls = [str(n.target) for n in prepared.graph.nodes if n.op == "call_module" and "attn_qkv_input" in str(n.target)]
    assert len(calls) == 4
    assert len(set(calls)) == 2
    weights = [n for n in prepared.graph.nodes if n.op == "call_module" and "attn_qkv_weight" in str(n.target)]
    assert len(weights) == 2


def test_first_and_last_layers_and_those_between_stages_have_eight_bits() -> None:
    for name, trunk in (
        ("deit", {"patch_embed.proj", "head"}),
        ("swin", {"patch_embed.proj", "layers.1.downsample.reduction", "head.fc"}),
        ("sret", {"patch_embed.conv1", "patch_embed.conv2", "patch_embed.conv3", "pools.0.conv", "head"}),
    ):
        report = fxquant.report(trained(build(name), steps=0))
        wide = {r.name for r in report.records if all("8" in o.dtype for o in r.operands)}
        assert wide == trunk


def test_bfloat16_autocast_trains() -> None:
    prepared = fxquant.prepare_qat(build("deit"), fxquant.recipe("vvtq", 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = prepared(images()).float().square().mean()
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
    reference = fxquant.prepare_qat(build("deit"), fxquant.recipe("vvtq", 4, 4))
    with torch.no_grad():
        assert sqnr(reference(images()), prepared(images())) > 15


def test_two_calls_give_the_same_model() -> None:
    one, other = trained(build("sret")), trained(build("sret"))
    assert torch.equal(one(images()), other(images()))


def test_torch_compile_trains_it() -> None:
    prepared = trained(build("deit"), steps=1).train()
    for module in prepared.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0  # type: ignore[assignment]
    expected = prepared(images())
    compiled = torch.compile(prepared, backend="eager")
    assert torch.allclose(compiled(images()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: fxquant.recipe("minmax"), r"LayerSpec\.weight: training needs learned steps"),
        (lambda: fxquant.recipe("fqvit"), "placement"),
        (lambda: fxquant.recipe("vvtq", float_dtype="bfloat16"), "float_dtype"),
        (lambda: fxquant.recipe("vvtq", 0, 4), "bits must be an integer"),
        (lambda: fxquant.recipe("vvtq", 4, 1), "bits must be an integer"),
        (lambda: fxquant.recipe("vvtq", gradient_scale="no"), "'variation', 'lsq'"),
    ],
)
def test_configs_without_learned_steps_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fxquant.prepare_qat(build("deit"), config())


def test_other_misuse_is_named() -> None:
    model = build("deit")
    with pytest.raises(ConfigError, match="drop_path"):
        fxquant.prepare_qat(model, drop_path=1.0)
    with pytest.raises(UnsupportedGraphError, match=r"prepare_qat expected a graph from fxquant\.trace"):
        fxquant.prepare_qat(fxquant.prepare_qat(model))
    with pytest.raises(fxquant.CalibrationError, match="never calibrated"):
        fxquant.convert(fxquant.prepare_qat(model))


def test_specs_of_ones_own_mix_with_float_layers() -> None:
    step = TensorSpec(3, signed=True, symmetric=True, observer=LearnedStep())
    config = fxquant.recipe("vvtq", 4, 4).set_module_name("blocks.0.attn", None)
    layer = config.layer
    assert isinstance(layer, LayerSpec)
    config = config.set_module_name("blocks.1.mlp.fc1", LayerSpec(weight=layer.weight, activation=step))
    prepared = fxquant.prepare_qat(build("deit"), config)
    fxquant.calibrate(prepared.eval(), [images()], progress=False)
    names = {n for n, m in prepared.get_submodule("observers").named_children() if isinstance(m, LearnedStepQuantizer)}
    assert not any(n.startswith("blocks_0_attn") for n in names)
    assert prepared.observers.blocks_1_mlp_fc1_input.spec.bits == 3  # type: ignore[union-attr]
    assert 0.5 < fxquant.report(fxquant.convert(prepared)).coverage < 1


@pytest.mark.parametrize("bits", [4, 1])
def test_steps_per_head_run_on_int8(bits: int) -> None:
    config = fxquant.recipe("vvtq", bits, 4, head_wise=True, offset=True)
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.qkv\.weight.*example_inputs"):
        fxquant.prepare_qat(build("deit"), config)
    prepared = fxquant.prepare_qat(build("deit"), config, images())
    fxquant.calibrate(prepared.eval(), [images()], progress=False)
    counts = {
        n: m.calculate_qparams().scale.numel()
        for n, m in prepared.get_submodule("observers").named_children()
        if n.startswith("blocks_0_attn") and isinstance(m, Observer)
    }
    assert counts == {
        **{"blocks_0_attn_qkv_input": 1, "blocks_0_attn_qkv_weight": 6, "blocks_0_attn_proj_input": 1},
        **{"blocks_0_attn_proj_weight": 1, "blocks_0_attn_qk_query": 2, "blocks_0_attn_qk_key": 2},
        **{"blocks_0_attn_pv_probs": 2, "blocks_0_attn_pv_value": 2},
    }
    expected, int8 = prepared(images(3)), fxquant.convert(prepared)
    assert fxquant.report(int8).coverage == 1.0
    assert (int8(images(3)) - expected).norm() < 1e-5 * expected.norm()
    heads = prepared.get_parameter("blocks.0.attn.qkv.weight").reshape(3, 2, 8, 16)[1, 1]
    if bits == 4:
        assert prepared.get_parameter("observers.blocks_0_attn_qkv_weight.scale")[3] == initial_weight_scale(heads, 4)


def test_calibrating_alone_gives_a_model_of_initial_steps() -> None:
    quantized = fxquant.quantize(build("deit"), [images()], recipe="vvtq", w_bits=8, a_bits=8)
    assert fxquant.report(quantized).coverage == 1.0
    assert sqnr(build("deit")(images()), quantized(images())) > 15


def test_an_optimiser_made_before_the_first_batch_trains_the_steps_it_sets() -> None:
    prepared = fxquant.prepare_qat(build("deit"), fxquant.recipe("vvtq", 4, 4, learned_bits=True))
    optimizer = torch.optim.SGD(prepared.parameters(), lr=10.0)
    prepared(images())
    scale = prepared.get_parameter("observers.blocks_0_mlp_fc1_input.scale")
    before = scale.detach().clone()
    torch.autograd.backward(prepared(images()).square().mean())
    optimizer.step()
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in prepared.parameters()}
    assert not torch.equal(before, scale)


def test_state_comes_back_into_a_fresh_graph() -> None:
    one, other = trained(build("sret")), fxquant.prepare_qat(build("sret"), fxquant.recipe("vvtq", 4, 4), drop_path=0.1)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(images()), other.eval()(images()))


class TwoAttentions(nn.Module):
    """Two attentions in one forward, and the first of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 24), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.first):
            q, k, v = layer(x).chunk(3, -1)
            x = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return x


def test_attentions_of_other_weights_have_steps_of_their_own() -> None:
    prepared = fxquant.prepare_qat(nn.Sequential(TwoAttentions()).eval(), fxquant.recipe("vvtq", 4, 4))
    products = [n for n in prepared.graph.nodes if n.target is torch.matmul]
    for first, second, again in (products[::2], products[1::2]):
        for position in (0, 1):
            calls = [str(p.args[position].target) for p in (first, second, again)]
            assert calls[0] == calls[2] != calls[1]


def test_a_name_with_binary_in_it_is_no_mark() -> None:
    model = nn.Sequential()
    model.add_module("my_binary", nn.Linear(8, 4))
    config = fxquant.recipe("vvtq", 1, 8)
    assert config.layer is not None
    prepared = fxquant.prepare_qat(model.eval(), config.set_module_name("my_binary", config.layer))
    x = torch.randn(5, 8)
    fxquant.calibrate(prepared.eval(), [x], progress=False)
    assert torch.allclose(fxquant.convert(prepared, "fake")(x), prepared(x), atol=1e-6)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match=r"float32 model, found torch\.bfloat16"):
        fxquant.prepare_qat(build("deit").bfloat16())


def test_convolutions_inside_blocks_have_the_bits_of_blocks() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return x + self.conv(x)  # type: ignore[no-any-return]

    report = fxquant.report(fxquant.prepare_qat(Block().eval(), fxquant.recipe("vvtq", 4, 3, offset=True)))
    assert [[o.dtype for o in r.operands] for r in report.records] == [["int8", "int8"], ["int3", "int4"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_is_that_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        prepared = fxquant.prepare_qat(build("swin").to(device), fxquant.recipe("vvtq", 4, 4, offset=True))
        fxquant.calibrate(prepared.eval(), [images().to(device)], progress=False)
        out = prepared.train()(images().to(device))
        torch.autograd.backward(out.square().mean() + 0.01 * variation_regulariser(prepared))
        found.append(
            (out.detach().cpu(), {n: p.grad.cpu() for n, p in prepared.named_parameters() if p.grad is not None})
        )
        int8 = fxquant.convert(prepared)
        assert sqnr(prepared.eval()(images().to(device)).cpu(), int8(images().to(device)).cpu()) > 30
    (cpu, cpu_gradients), (cuda, gradients) = found
    assert sqnr(cpu, cuda) > 25  # a code may go either way
    assert gradients.keys() == cpu_gradients.keys()
