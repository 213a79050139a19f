"""torch.ao's own observers, QConfig and QConfigMapping, through the adapter."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.quantization.fx.qconfig_mapping_utils import _maybe_adjust_qconfig_for_module_type_or_name

import fxquant
from fxquant import ConfigError, LayerSpec, QuantConfig
from fxquant.config.torch_ao import TorchAo, from_torch_ao

W4 = ao.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-8, quant_max=7)
FOUR = ao.QConfig(activation=ao.MinMaxObserver.with_args(quant_min=0, quant_max=15), weight=W4)
EIGHT = ao.get_default_qconfig("onednn")


def test_a_qconfig_is_the_global_spec() -> None:
    config = from_torch_ao(EIGHT)
    assert config == QuantConfig(LayerSpec(TorchAo(EIGHT.weight).spec(), TorchAo(EIGHT.activation).spec()))
    weight_only = from_torch_ao(ao.QConfig(activation=nn.Identity, weight=W4)).layer
    assert weight_only == LayerSpec(TorchAo(W4).spec(), None)


def mapping() -> Any:
    """Return a mapping that uses every way to say it."""
    return (
        ao.QConfigMapping()
        .set_global(EIGHT)
        .set_object_type(nn.Linear, FOUR)
        .set_object_type(nn.LayerNorm, None)
        .set_module_name_regex(r"blocks\.\d\.fc", None)
        .set_module_name_regex(r"blocks\..*", EIGHT)
        .set_module_name_regex("fc", EIGHT)
        .set_module_name("blocks.1", FOUR)
        .set_module_name("blocks.1.fc2", None)
        .set_module_name("stem", None)
    )


@pytest.mark.parametrize(
    ("kind", "operator", "name"),
    [
        *((nn.Conv2d, "conv2d", name) for name in ("stem", "stem2", "blocks.0.conv", "blocks.1.conv")),
        *((nn.Linear, "linear", name) for name in ("head", "blocks.0.fc1", "blocks.0.qkv", "blocks.0.attn.fc")),
        *(
            (nn.Linear, "linear", name)
            for name in ("blocks.1.fc1", "blocks.1.fc2", "blocks.12.fc", "fc_norm", "not.fc")
        ),
    ],
)
def test_precedence_is_that_of_torch_ao(kind: type[nn.Module], operator: str, name: str) -> None:
    theirs = _maybe_adjust_qconfig_for_module_type_or_name(mapping(), kind, name, mapping().global_qconfig)
    config = from_torch_ao(mapping())
    override = config.override_for(operator, name)
    ours = override.spec if override else config.layer
    assert ours == (None if theirs is None else from_torch_ao(theirs).layer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.set_module_name_object_type_order("fc", nn.Linear, 0, FOUR),
            "set_module_name_object_type_order('fc', <class 'torch.nn.modules.linear.Linear'>, 0) is not supported: use",
        ),
        (lambda m: m.set_global(ao.float16_dynamic_qconfig), "the global QConfig: "),
        (lambda m: m.set_module_name("fc", ao.default_dynamic_qconfig), "the QConfig of module 'fc': "),
        (lambda m: m.set_module_name_regex("fc", ao.float16_static_qconfig), "the QConfig of expression 'fc': "),
        (lambda m: m.set_object_type(nn.Linear, 8), "expected a torch.ao QConfig or None, got 8"),
        (
            lambda m: m.set_global(ao.QConfig(ao.PerChannelMinMaxObserver, W4)),
            "the global QConfig: LayerSpec.activation: axis 0 of an activation is the batch",
        ),
        (
            lambda m: m.set_object_type(nn.Linear, FOUR).set_object_type(F.linear, None),
            "are one operator to fxquant: give both the same QConfig",
        ),
        (
            lambda m: m.set_object_type(nn.MultiheadAttention, None),
            "object type MultiheadAttention is no single operator",
        ),
        (lambda m: m.set_object_type(Toy, None), "object type Toy is no single operator: name its modules"),
    ],
)
def test_mappings_that_cannot_be_followed(change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_torch_ao(change(ao.QConfigMapping()))


@pytest.mark.parametrize(
    "config", [42, "minmax", {"": EIGHT}, ao.HistogramObserver, LayerSpec(), nn.Linear(2, 2)], ids=str
)
def test_anything_else_is_refused(config: Any) -> None:
    message = (
        "expected a fxquant.QuantConfig (fxquant.recipe(name) returns one), or a QConfigMapping or QConfig of "
        f"torch.ao.quantization, got {type(config).__name__}: "
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        fxquant.prepare(nn.Linear(2, 2).eval(), config)


class Toy(nn.Module):
    """Patches, one block of attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.fc = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 16, 16) to (B, 5)."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.head((x + self.fc(x)).mean(1))
        return y


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        (ao.get_default_qconfig_mapping("x86"), (7, 8)),
        (ao.get_default_qconfig_mapping("qnnpack"), (8, 8)),
        (ao.get_default_qat_qconfig_mapping("x86"), (7, 8)),
        (ao.default_symmetric_qnnpack_qconfig, (8, 8)),
        (ao.QConfigMapping().set_global(FOUR), (4, 4)),
    ],
    ids=["x86", "qnnpack", "qat", "symmetric", "four"],
)
def test_a_model_runs_on_it(config: Any, bits: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, images = Toy().eval(), torch.randn(4, 3, 16, 16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepared = fxquant.calibrate(fxquant.prepare(model, config), [images, images * 1.1], progress=False)
        fake, int8 = fxquant.convert(prepared, target="fake"), fxquant.convert(prepared)
    assert not [w for w in caught if "quantization" in w.filename or "quant_min" in str(w.message)]
    report = fxquant.report(int8)
    assert [r.name for r in report if r.int8] == ["stem", "qkv", "fc.0", "fc.2", "head"]
    assert {tuple(re.sub(r"\D", "", o.dtype) for o in r.operands) for r in report if r.int8} == {tuple(map(str, bits))}
    with torch.no_grad():
        y = model(images)
        torch.testing.assert_close(int8(images), fake(images), rtol=0, atol=float(y.abs().max()) / 10)
        assert (int8(images) - y).norm() / y.norm() < (0.1 if min(bits) > 4 else 0.6)


def test_attention_comes_on_where_it_has_an_entry() -> None:
    config = ao.get_default_qconfig_mapping("onednn").set_object_type(F.scaled_dot_product_attention, EIGHT)
    prepared = fxquant.calibrate(fxquant.prepare(Toy().eval(), config), [torch.randn(2, 3, 16, 16)], progress=False)
    products = [r.product for r in fxquant.report(fxquant.convert(prepared, "fake")) if r.requested]
    assert products == ["patch_embed", "linear", "qk", "pv", "linear", "linear", "head"]


def test_a_constant_operand_keeps_its_value() -> None:
    # Softmax over a single row gives ones only.
    model, x = nn.Sequential(nn.Softmax(0), nn.Linear(4, 4)).eval(), torch.eye(4)[:1]
    prepared = fxquant.calibrate(fxquant.prepare(model, EIGHT), [x], progress=False)
    assert (fxquant.convert(prepared)(x) - model(x)).norm() < 0.01 * model(x).norm()


def test_fxquant_does_not_import_the_adapter_and_the_day_torch_drops_it_only_the_adapter_dies() -> None:
    # `import torch` brings parts of torch.ao itself; fxquant adds none.
    code = (
        "import sys, torch, torch.fx, torch._subclasses.fake_tensor, pytest\n"
        "from torch import nn\n"
        "before = {m for m in sys.modules if m.startswith('torch.ao')}\n"
        "import fxquant\n"
        "fxquant.prepare(nn.Linear(2, 2).eval())\n"
        "assert 'fxquant.config.torch_ao' not in sys.modules\n"
        "assert {m for m in sys.modules if m.startswith('torch.ao')} == before\n"
        "for name in [m for m in sys.modules if m.startswith('torch.ao.quantization')]:\n"
        "    del sys.modules[name]\n"
        "sys.modules['torch.ao.quantization'] = None\n"
        "prepared = fxquant.prepare(nn.Linear(2, 2).eval())\n"
        "fxquant.convert(fxquant.calibrate(prepared, [torch.randn(3, 2)], progress=False))\n"
        "with pytest.raises(fxquant.ConfigError, match='expected a fxquant.QuantConfig'):\n"
        "    fxquant.prepare(nn.Linear(2, 2).eval(), 42)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
