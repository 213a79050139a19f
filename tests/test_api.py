"""The four verbs: what they keep and what they promise."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import ConfigError, InputError, LayerSpec, QuantConfig, TensorSpec, TwinSoftmax, UnsupportedGraphError
from fxquant.graph.stages import Stage, stage_of
from fxquant.numerics.arithmetic import sqnr
from fxquant.observers import Observer
from fxquant.ops import int8_linear
from tests.support.check_pass import module_of
from tests.support.models import Shared, images, small_swin, small_vit
from tests.support.tiers import keep_quick

MINMAX = fxquant.recipe("minmax")


def calibrated(model: nn.Module, config: QuantConfig = MINMAX, *batches: Tensor) -> fx.GraphModule:
    prepared = fxquant.prepare(model, config)
    return fxquant.calibrate(prepared, batches or [images()], progress=False)


VIT = small_vit()
TRACED = fxquant.trace(VIT)
CALIBRATED = calibrated(VIT)
FAKE, INT8 = fxquant.convert(CALIBRATED, "fake"), fxquant.convert(CALIBRATED)


def snapshot(gm: nn.Module) -> list[Any]:
    code = gm.code if isinstance(gm, fx.GraphModule) else None
    meta = dict(gm.meta) if isinstance(gm, fx.GraphModule) else None
    nodes = [(n.name, sorted(n.meta)) for n in gm.graph.nodes] if isinstance(gm, fx.GraphModule) else None
    return [code, meta, nodes, [n for n, _ in gm.named_modules()], copy.deepcopy(gm.state_dict())]


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert before[:-1] == after[:-1]
    torch.testing.assert_close(before[-1], after[-1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        (fxquant.trace, VIT),
        (fxquant.prepare, VIT),
        (fxquant.prepare, TRACED),
        (fxquant.convert, CALIBRATED),
        (lambda gm: fxquant.convert(gm, "fake"), CALIBRATED),
        (lambda gm: fxquant.prepare(gm, MINMAX, images()), TRACED),
        (lambda model: fxquant.quantize(model, [images()], recipe="minmax"), VIT),
    ],
)
def test_inputs_are_never_changed(verb: Callable[[Any], fx.GraphModule], given: nn.Module) -> None:
    before = snapshot(given)
    made = verb(given)
    assert made is not given
    assert_same(before, snapshot(given))
    if isinstance(given, fx.GraphModule):
        assert not {id(t) for t in given.parameters()} & {id(t) for t in made.parameters()}


def test_int8_is_close_to_the_float_model() -> None:
    x = images(8, seed=1)
    with torch.no_grad():
        expected = VIT(x)
        assert torch.equal(CALIBRATED(x), expected)
        assert sqnr(expected, FAKE(x)) > 25
        assert sqnr(expected, INT8(x)) > 25


def test_a_plain_loop_calibrates() -> None:
    prepared = fxquant.prepare(VIT, MINMAX)
    for seed in range(3):
        prepared(images(2, seed))
    other = calibrated(VIT, MINMAX, *(images(2, seed) for seed in range(3)))
    x = images(2, seed=5)
    assert torch.equal(fxquant.convert(prepared)(x), fxquant.convert(other)(x))


def test_calibrate_takes_pairs_and_adds_to_what_was_seen() -> None:
    pairs = [(images(2, seed), torch.zeros(2)) for seed in range(2)]
    prepared = fxquant.prepare(VIT, MINMAX)
    assert fxquant.calibrate(prepared, pairs, progress=False) is prepared
    fxquant.calibrate(prepared, iter([images(3, seed=2)]), progress=False)
    whole = calibrated(VIT, MINMAX, images(2, 0), images(2, 1), images(3, 2))
    x = images()
    assert torch.equal(fxquant.convert(prepared)(x), fxquant.convert(whole)(x))


@pytest.mark.parametrize(
    ("make", "batch"),
    keep_quick(product([small_vit, small_swin], [1, 3, 17]), *((small_vit, n) for n in (1, 3, 17)), (small_swin, 3)),
)
def test_batch_sizes_that_were_never_calibrated(make: Callable[[], nn.Module], batch: int) -> None:
    quantized = fxquant.convert(calibrated(make()))
    x = images(batch, seed=3)
    with torch.no_grad():
        each = torch.cat([quantized(x[i : i + 1]) for i in range(batch)])
        torch.testing.assert_close(quantized(x), each, rtol=1e-3, atol=1e-3)


def test_the_one_liner_is_the_four_verbs() -> None:
    batches = [images(2, seed) for seed in range(2)]
    quantized = fxquant.quantize(VIT, iter(batches), recipe="percentile", a_bits=6, alpha=0.999)
    config = fxquant.recipe("percentile", a_bits=6, alpha=0.999)
    steps = fxquant.convert(calibrated(VIT, config, *batches))
    x = images(3, seed=4)
    assert torch.equal(quantized(x), steps(x))
    assert stage_of(quantized) is Stage.LOWERED
    assert stage_of(fxquant.quantize(VIT, batches, target="fake")) is Stage.QUANTISED
    assert torch.equal(fxquant.quantize(VIT, batches, config)(x), steps(x))


def test_the_one_liner_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    fxquant.quantize(VIT, [images(2)], recipe="minmax", seed=7)
    assert torch.equal(torch.get_rng_state(), state)


def test_strict_refuses_what_stays_float() -> None:
    asks_too_much = QuantConfig(LayerSpec(softmax=TwinSoftmax(published=True)), attention=True)
    prepared = calibrated(VIT, asks_too_much)
    with pytest.raises(UnsupportedGraphError, match=r"strict: 2 products.*\n.*blocks.0.attn.pv: simulated"):
        fxquant.convert(prepared, strict=True)
    fxquant.convert(prepared, "fake", strict=True)
    fxquant.convert(CALIBRATED, strict=True)
    everything = fxquant.convert(calibrated(VIT, QuantConfig(attention=True)), strict=True)
    assert fxquant.report(everything).coverage == 1


def test_strict_does_not_mind_what_the_config_leaves_float() -> None:
    config = MINMAX.set_module_name("head", None)
    quantized = fxquant.convert(calibrated(VIT, config), strict=True)
    assert [r.name for r in fxquant.report(quantized) if not r.int8 and "attn" not in r.name] == ["head"]


def test_a_bfloat16_model_keeps_its_residual_stream() -> None:
    model = small_vit().bfloat16()
    gm = fxquant.convert(calibrated(model, MINMAX, images().bfloat16()))
    values = {
        n.name: n.meta["val"].dtype for n in gm.graph.nodes if n.target is int8_linear or n.name.startswith("add")
    }
    assert set(values.values()) == {torch.bfloat16}
    x = images(4, seed=1)
    with torch.no_grad():
        found, expected = gm(x.bfloat16()), VIT(x)
        assert found.dtype is torch.bfloat16
        # Rounding the residual stream to bfloat16 costs more than the codes do.
        assert sqnr(expected, found.float()) > sqnr(expected, model(x.bfloat16()).float()) - 4


def test_calibration_images_take_the_dtype_of_the_model() -> None:
    calibrated(small_vit().bfloat16(), MINMAX, images())


def test_a_module_called_twice_is_two_products_with_one_weight() -> None:
    model, x = Shared().eval(), torch.randn(4, 20, 8)
    prepared = fxquant.prepare(model, MINMAX)
    prepared(x)
    for target in ("fake", "int8"):
        gm = fxquant.convert(prepared, target)  # type: ignore[arg-type]
        assert [r.name for r in fxquant.report(gm)] == ["layer", "layer_2"]
        assert sqnr(model(x).detach(), gm(x).detach()) > 30
    codes = [name for name in fxquant.convert(prepared, "fake").state_dict() if name.endswith("weight_codes")]
    assert codes == ["layer.weight_codes"]


def test_weights_are_int8_in_the_state_dict() -> None:
    model = small_vit(embed_dim=192, depth=2, num_heads=3, num_classes=1000)
    state = fxquant.convert(calibrated(model)).state_dict()
    assert {name for name, value in state.items() if value.dtype is torch.int8} == {
        *(
            f"blocks.{i}.{name}.weight_int8"
            for i in range(2)
            for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ),
        "patch_embed.proj.weight_int8",
        "head.weight_int8",
    }
    assert not [
        n for n, v in state.items() if v.is_floating_point() and v.dim() > 1 and not re.search("pos_embed|cls", n)
    ]
    small, large = (sum(v.numel() * v.element_size() for v in d.values()) for d in (state, model.state_dict()))
    assert small < 0.29 * large


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_fewer_bits_lower_too(bits: int) -> None:
    config = fxquant.recipe("minmax", w_bits=bits, a_bits=bits)
    prepared = calibrated(VIT, config)
    fake, quantized = fxquant.convert(prepared, "fake"), fxquant.convert(prepared, strict=True)
    assert fxquant.report(quantized).coverage == fxquant.report(INT8).coverage
    x = images(2, seed=1)
    noise = (fake(x) - VIT(x)).norm()
    assert (quantized(x) - fake(x)).norm() < noise


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown target 'int4': expected 'int8' or 'fake'"):
        fxquant.convert(CALIBRATED, "int4")  # type: ignore[arg-type]


def test_prepare_takes_a_graph_or_a_module() -> None:
    spec = QuantConfig(LayerSpec(activation=TensorSpec(7)))
    from_graph, from_module = fxquant.prepare(TRACED, spec), fxquant.prepare(VIT, spec)
    assert from_graph.code == from_module.code
    assert fxquant.prepare(fx.symbolic_trace(VIT), spec).code


def test_prepare_without_a_config_is_the_default_recipe() -> None:
    specs = {m.spec for m in fxquant.prepare(VIT).modules() if isinstance(m, Observer)}
    default = {m.spec for m in fxquant.prepare(VIT, fxquant.recipe("default")).modules() if isinstance(m, Observer)}
    assert specs == default


def _scaled(self: Any, x: Tensor, scale: float, mask: Tensor | None = None, *rest: Tensor | None) -> Tensor:
    x = x * scale if mask is None else x * mask
    return x + sum(r for r in rest if r is not None)


X, MASK = torch.randn(2, 4), torch.rand(2, 4)


@pytest.mark.parametrize(
    ("example", "inputs"),
    [
        ((X, 2.0), ["x"]),
        ([X, 2.0, None], ["x"]),
        ((X, 2.0, MASK), ["x", "mask"]),
        ((X, 2.0, None, None, MASK), ["x", "rest_1"]),
        ({"mask": MASK, "x": X, "scale": 2.0, "labels": MASK}, ["x", "mask"]),
    ],
)
def test_the_tensors_of_the_example_are_the_inputs(example: Any, inputs: list[str]) -> None:
    model = module_of(_scaled)
    gm = fxquant.trace(model, example)
    assert [n.target for n in gm.graph.nodes if n.op == "placeholder"] == inputs
    assert all("val" in n.meta for n in gm.graph.nodes if n.op != "output")
    if isinstance(example, dict):
        example = (example["x"], example["scale"], example["mask"])
    tensors = [value for value in example if isinstance(value, Tensor)]
    assert torch.equal(gm(*tensors), model(*example))


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (X, r"do not fit the arguments \(x, scale, mask, rest\) of Small: missing a required argument: 'scale'"),
        ((None, 2.0), r"with a tensor in it as example inputs, found tuple of NoneType, float"),
        ((), r"example inputs, found tuple$"),
        ({"x": X}, r"do not fit the arguments \(x, scale, mask, rest\) of Small: missing a required argument: 'scale'"),
        ({"scale": 2.0}, r"example inputs, found dict$"),
        ({"x": X, "scale": 2.0, "size": 3}, r"'size' is no argument of Small, which takes x, scale, mask, rest"),
        (3, r"example inputs, found int$"),
    ],
)
def test_examples_that_are_not_what_the_model_takes(example: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        fxquant.trace(module_of(_scaled), example)
    with pytest.raises(InputError, match="too many positional arguments"):
        fxquant.trace(VIT, (images(), None, None, None))


def test_a_converted_model_lives_on_memory_of_its_own() -> None:
    model = small_swin()
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"))
    fxquant.calibrate(prepared, [images()], progress=False)
    for target in ("int8", "fake"):
        converted = fxquant.convert(prepared, target)  # type: ignore[arg-type]
        theirs = {t.untyped_storage().data_ptr() for m in (model, prepared) for t in (*m.parameters(), *m.buffers())}
        own = {name: t for name, t in converted.state_dict().items() if t.numel()}
        assert not [name for name, t in own.items() if t.untyped_storage().data_ptr() in theirs]
