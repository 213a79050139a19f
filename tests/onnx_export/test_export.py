"""`fxquant.export_onnx`: the file says what the graph computes, and ONNX Runtime computes it on int8."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import InputError, UnsupportedGraphError
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import set_card
from tests.support.models import Conditioned, conditions, images, small_swin, small_vit

onnx = pytest.importorskip("onnx", reason="needs the package onnx, of the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, of the extra onnx")

from bench.exported.agreement import agreement, run_file  # noqa: E402

X = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))


class Mlp(nn.Module):
    """A norm and two layers, on tokens ``(B, N, 16)``."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 32, bias), nn.Linear(32, 16, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, N, 16)``."""
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


def converted(module: nn.Module, config: Any = None, x: Tensor = X, target: Any = "int8") -> fx.GraphModule:
    prepared = fxquant.prepare(module.eval(), config or fxquant.recipe("minmax"), x)
    prepared(x)
    return fxquant.convert(prepared, target)


@cache
def mlp() -> fx.GraphModule:
    """Return an int8 graph that no test changes."""
    torch.manual_seed(0)
    return converted(Mlp())


def exported(gm: fx.GraphModule, folder: Path) -> Path:
    fxquant.export_onnx(gm, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("target", [pytest.param("fake", marks=pytest.mark.long), "int8"])
def test_the_codes_at_each_site_are_those_of_the_graph(target: str, tmp_path: Path) -> None:
    gm = mlp() if target == "int8" else converted(Mlp(), target=target)
    found = agreement(gm, exported(gm, tmp_path), (X,))
    assert found.sites == 2
    assert found.other <= 1  # a tie
    assert found.farthest <= 1
    assert found.error < 1e-6
    assert found.products == {"int8": 2}


def test_the_form_of_the_file(tmp_path: Path) -> None:
    model = onnx.load(str(exported(mlp(), tmp_path)))
    operators = [node.op_type for node in model.graph.node]
    linear = ["DequantizeLinear", "MatMul", "Add"]
    norm = ["LayerNormalization", "QuantizeLinear", "DequantizeLinear"]
    checks = ["Mul", "ReduceSum"]
    gelu = ["Gelu", "QuantizeLinear", "DequantizeLinear"]
    assert operators == [*checks, *norm, *linear, *gelu, *linear, "Add", "Reshape", "Sub", "Identity"]
    weights = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert {name: list(t.dims) for name, t in weights.items()} == {
        "fc1.weight_codes": [16, 32],
        "fc2.weight_codes": [32, 16],
    }
    scales = {
        node.input[0]: (node.attribute[0].i, node.input[1]) for node in model.graph.node if node.input[0] in weights
    }
    sizes = {t.name: list(t.dims) for t in model.graph.initializer}
    assert {(axis, *sizes[scale]) for axis, scale in scales.values()} == {(1, 32), (1, 16)}
    (taken,), (given,) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim] == ["batch", 6, 16]
    assert (taken.name, given.name) == ("x", "output")
    assert {"linear", "gelu", "add"} <= {name for node in model.graph.node for name in node.output}


@pytest.mark.long
def test_the_batch_size_is_free(tmp_path: Path) -> None:
    gm = converted(small_vit(), x=images())
    file = exported(gm, tmp_path)
    for batch in (1, 5):
        x = images(batch, seed=3)
        (found,) = run_file(file, (x,))
        expected = gm(x)
        assert found.shape == expected.shape
        assert (found - expected).norm() < 0.05 * expected.norm()  # a tie at the image may change codes behind it


def test_an_image_that_is_not_finite_gives_nan_and_others_do_not(tmp_path: Path) -> None:
    x = X.clone()
    x[1, 2, 3] = float("nan")
    (found,) = run_file(exported(mlp(), tmp_path), (x,))
    assert found[1].isnan().all()
    assert found[0].isfinite().all()


def test_the_file_has_the_card_of_the_model(tmp_path: Path) -> None:
    gm = converted(Mlp())
    config = fxquant.DataConfig((3, 8, 8), (0.5,) * 3, (0.25,) * 3)
    set_card(gm, ModelCard("mine", config, 2, ("cat", "dog"), fxquant.UsedRecipe("minmax", 8, 8)))
    model = onnx.load(str(exported(gm, tmp_path)))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["fxquant.data_config"])["mean"] == [0.5] * 3
    assert json.loads(facts["fxquant.class_names"]) == ["cat", "dog"]
    assert facts["fxquant.recipe"] == "recipe minmax, W8A8"
    assert json.loads(facts["fxquant.versions"])["torch"] == str(torch.__version__)
    assert (model.graph.name, model.producer_name, model.opset_import[0].version) == ("mine", "fxquant", 20)


def test_outputs_have_the_names_of_the_model(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(tokens[:, 0]), "features": tokens.mean(1)}

    gm = converted(Two())
    model = onnx.load(str(exported(gm, tmp_path)))
    assert [each.name for each in model.graph.output] == ["logits", "features"]
    found, expected = run_file(tmp_path / "model.onnx", (X,)), gm(X)
    torch.testing.assert_close(found, list(expected.values()), rtol=1e-5, atol=1e-5)


def test_what_was_not_converted_is_refused(tmp_path: Path) -> None:
    for module in (nn.Linear(2, 2), fxquant.trace(Mlp().eval(), X), fxquant.prepare(Mlp().eval(), None, X)):
        with pytest.raises(InputError, match=r"expected a graph from fxquant\.convert"):
            exported(module, tmp_path)  # type: ignore[arg-type]


def test_a_model_of_another_dtype_is_refused(tmp_path: Path) -> None:
    gm = converted(Mlp().bfloat16(), x=X.bfloat16())
    with pytest.raises(InputError, match=r"expected a float32 model, found torch\.bfloat16"):
        exported(gm, tmp_path)


@pytest.mark.parametrize("target", ["fake", "int8"])
def test_float8_codes_are_refused(target: str, tmp_path: Path) -> None:
    gm = converted(nn.Linear(16, 16), fxquant.recipe("minmax", codes="e4m3"), target=target)
    with pytest.raises(UnsupportedGraphError, match=r"node 'quantize_float8': float8 codes are not written to ONNX"):
        exported(gm, tmp_path)


def test_an_operator_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(self.fc(x), 1)

    with pytest.raises(UnsupportedGraphError, match=r"node 'cumsum'.*cannot be written to ONNX: it has no row"):
        exported(converted(Sorted()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'fxquant\[onnx\]'"):
        exported(mlp(), tmp_path)


def test_what_no_file_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fxquant.onnx_export.export_file.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="expected tensors of less than 2 GiB"):
        exported(mlp(), tmp_path)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        fxquant.export_onnx(mlp(), tmp_path / "missing" / "model.onnx")


@pytest.mark.long
def test_windows_and_their_masks(tmp_path: Path) -> None:
    gm = converted(small_swin(), x=images())
    found = agreement(gm, exported(gm, tmp_path), (images(2, seed=1),))
    assert found.other <= 10
    assert found.farthest <= 1
    assert found.error < 1e-6
    assert found.products == {"int8": 19, "float32": 8}


@pytest.mark.long
@pytest.mark.parametrize("boolean", [False, True])
def test_several_inputs(boolean: bool, tmp_path: Path) -> None:
    example = conditions(boolean)
    prepared = fxquant.prepare(Conditioned(boolean).eval(), fxquant.recipe("minmax"), example)
    gm = fxquant.convert(fxquant.calibrate(prepared, [example], progress=False))
    file = exported(gm, tmp_path)
    assert [each.name for each in onnx.load(str(file)).graph.input] == ["tokens", "index", "mask"]
    found = agreement(gm, file, conditions(boolean, batch=3, seed=1))
    assert found.other <= 2
    assert found.error < 1e-6


@pytest.mark.long
def test_free_sizes_are_those_of_the_calibration(tmp_path: Path) -> None:
    traced = fxquant.trace(small_vit(dynamic_img_size=True), images(), ("height", "width"))
    gm = fxquant.quantize(traced, [images()], "minmax", progress=False)
    file = exported(gm, tmp_path)
    (taken,) = onnx.load(str(file)).graph.input
    assert [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert agreement(gm, file, (images(3, seed=1),)).error < 1e-6
