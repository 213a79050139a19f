"""Every recipe is exported: what docs/export.md says of it holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import fxquant
from bench.harness.results import read_results
from fxquant import UnsupportedGraphError

pytest.importorskip("onnx", reason="needs the package onnx, of the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, of the extra onnx")

from bench.exported.agreement import agreement, run_file
from bench.exported.measure import INT8, compared
from bench.exported.openvino_run import run_openvino
from bench.exported.subjects import small_vit


@cache
def rows() -> dict[str, Any]:
    """Return the rows of the page by recipe."""
    return {row["recipe"]: row for row in read_results("exported")["rows"]}


def test_the_page_has_every_recipe() -> None:
    assert list(rows()) == list(fxquant.recipes())


@pytest.mark.long
@pytest.mark.parametrize("target", ["fake", "int8"])
@pytest.mark.parametrize("recipe", fxquant.recipes())
def test_onnx_runtime_gives_the_same_codes_on_int8(recipe: str, target: str, tmp_path: Path) -> None:
    found, _, _ = compared(small_vit(), recipe, tmp_path, target)
    row = rows()[recipe]
    assert (found.sites, found.codes) == (row["sites"], row["codes"])
    assert found.other <= max(3, found.codes / 10000)
    assert found.farthest <= 1
    assert found.error < 1e-5
    assert (found.products[INT8], found.products.total()) == (row["int8"], row["products"])


@pytest.mark.long
@pytest.mark.parametrize("recipe", fxquant.recipes())
def test_openvino_reads_it_and_runs_int8(recipe: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the package openvino, of the extra bench")
    subject = small_vit()
    _, gm, file = compared(subject, recipe, tmp_path)
    (outputs,), products = run_openvino(file, (subject.images,))
    row, expected = rows()[recipe], gm(subject.images)
    assert (outputs - expected).norm() < 0.1 * expected.norm()  # ties move the codes behind them
    assert (products[INT8], products.total()) == (row["openvino_int8"], row["openvino_products"])


@pytest.mark.long
@pytest.mark.parametrize("target", ["fake", "int8"])
@pytest.mark.parametrize(
    ("recipe", "bits", "options"),
    [
        ("minmax", (4, 4), {}),
        ("dynamic", (4, 6), {"symmetric": True}),
        ("adalog", (4, 4), {}),
        ("psaq", (4, 4), {}),
        ("ptq4vit", (6, 6), {}),
        ("ptq4vit", (8, 8), {"published": True}),
        ("noisyquant", (6, 6), {"published": True}),
        ("fqvit", (8, 8), {"softmax": "log2"}),
    ],
)
def test_other_bits_and_options(recipe: str, bits: tuple[int, int], options: Any, target: Any, tmp_path: Path) -> None:
    subject = small_vit()
    prepared = fxquant.prepare(subject.model, fxquant.recipe(recipe, *bits, **options), subject.images)
    gm = fxquant.convert(fxquant.calibrate(prepared, subject.calibration, progress=False), target)
    fxquant.export_onnx(gm, tmp_path / "model.onnx")
    found = agreement(gm, tmp_path / "model.onnx", (subject.images,))
    assert found.other <= max(3, found.codes / 2000)  # the largest of a row is a tie where its codes are symmetric
    assert found.farthest <= 1
    assert found.error < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("target", ["fake", "int8"])
def test_weights_alone(target: Any, tmp_path: Path) -> None:
    subject = small_vit()
    prepared = fxquant.prepare(subject.model, fxquant.recipe("minmax", 8, 16), subject.images)
    gm = fxquant.convert(fxquant.calibrate(prepared, subject.calibration, progress=False), target)
    fxquant.export_onnx(gm, tmp_path / "model.onnx")
    (found,), expected = run_file(tmp_path / "model.onnx", (subject.images,)), gm(subject.images)
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.long
def test_a_layer_norm_on_integers_is_refused_by_name(tmp_path: Path) -> None:
    subject = small_vit()
    prepared = fxquant.prepare(subject.model, fxquant.recipe("fqvit", integer_norm=True), subject.images)
    gm = fxquant.convert(fxquant.calibrate(prepared, subject.calibration, progress=False))
    with pytest.raises(UnsupportedGraphError, match=r"integer_layer_norm.*cannot be written to ONNX"):
        fxquant.export_onnx(gm, tmp_path / "model.onnx")
