"""What the ImageNet tables hold: models, rows and their names, and the file of rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm

import fxquant
from bench.imagenet import __main__ as imagenet
from bench.imagenet.results import ImagenetResults, Job, describe_gap, render
from bench.imagenet.tables import FIGURES, Figure, Model, PublishedEvidence, Synthesis
from fxquant import PerTensor
from fxquant.errors import InputError
from fxquant.files import write_json
from fxquant.numerics.granularity import PerChannel
from fxquant.synthesis.synthesis_options import make_options


def test_tags_exist_and_have_the_float_accuracy_that_was_published() -> None:
    models = {published.model for published in FIGURES}
    assert len({model.tag for model in models}) == len({model.name for model in models}) == 15
    for published in FIGURES:
        architecture, _, tag = published.model.tag.partition(".")
        assert published.model.tag in timm.list_pretrained(f"{architecture}.*"), tag
        assert timm.get_pretrained_cfg(published.model.tag).num_classes == 1000
        assert describe_gap(published, published.model.timm_top1) is None
        assert published.top1 < published.float_top1
    wrong = next(published for published in FIGURES if published.model.name == "ViT-B")
    assert "not comparable" in str(describe_gap(wrong, 85.096))


def test_published_figures_make_rows_of_recipes_that_exist() -> None:
    jobs = [
        Job(published, constants, published.calibration, None, 0, "int8", (1_281_167, 50_000), False)
        for published in FIGURES
        for constants in ("published", "fxquant")
        if constants == "published" or published.departs
    ]
    both = sum(published.departs for published in FIGURES)
    assert len({job.key for job in jobs}) == len(jobs) == len(FIGURES) + both
    # Alone NoisyQuant's vanilla, FQ-ViT's MinMax, EMA and Percentile, and PSAQ-ViT of a DeiT are the same with fxquant's.
    assert len(FIGURES) - both == 1 + 3 * 8 + 3 * 2
    for job in jobs:
        fxquant.recipe(job.figure.recipe, job.figure.w_bits, job.figure.a_bits, **job.options)
        make_options(job.synthesis or {})
    counts = Counter(published.table for published in FIGURES)
    assert counts == {"ptq4vit": 44, "noisyquant": 20, "fqvit": 48, "psaq": 10}
    quoted = [published for published in FIGURES if published.evidence is PublishedEvidence.QUOTED]
    assert len(quoted) == 16
    text = render(jobs, {})
    assert "| ViT-B | W6A6 | PTQ4ViT | published | 32 | 84.54 | - | 81.65 | - | 2.89 | - |" in text
    assert "| ViT-S | W6A6 | NoisyQuant-Linear | fxquant | 1024 | 81.39 | - | 76.86* | - | 4.53 | - |" in text
    assert "| ViT-L | W8A8 | FQ-ViT 8/8/4 | published | 1000 | 85.81 | - | 84.89 | - | 0.92 | - |" in text
    assert "| Swin-S | W4A8 | PSAQ-ViT | fxquant | 32 synthetic | 83.20 | - | 75.14 | - | 8.06 | - |" in text


def test_rows_of_fqvit_quantise_what_its_code_does() -> None:
    rows = {(row.method, row.model.name): row for row in FIGURES if row.table == "fqvit"}
    configs = {key: fxquant.recipe(row.recipe, 8, 8, **dict(row.options)) for key, row in rows.items()}
    placements = {key: config.placement for key, config in configs.items() if config.placement}
    assert len(placements) == len(rows)
    for (method, model), placement in placements.items():
        assert (placement.image is None) == (model in ("ViT-B", "ViT-L"))
        assert placement.residual is not None
        assert placement.residual.granularity == (PerChannel(-1) if "FQ-ViT" in method else PerTensor())
        codes = placement.probabilities.dtype if placement.probabilities else None
        assert codes == ("log4" if method == "FQ-ViT 8/8/4" else "uint8")
    assert {row.batch for row in rows.values()} == {100}


def test_rows_keep_their_names() -> None:
    """The file of an earlier version stays of use; what is new is named where it matters."""
    arguments: tuple[Any, ...] = ("published", 32, None, 0, "int8", (9, 6), True)
    plain = Figure("ptq4vit", "BasePTQ", Model("m", "tag", 0.0), 6, 6, 9.0, 8.0, "base_ptq", 32, "nobody")
    job = Job(plain, *arguments)
    assert job.key == "tag W6A6 base_ptq(published=true) 32 of 9 images on all of 6 seed=0 int8"
    assert job.float_key == "tag float on all of 6 seed=0 without 32"
    made = Job(replace(plain, a_bits=8, batch=8, synthesis=Synthesis((("lr", 0.1),))), *arguments)
    assert made.key == "tag W6A8 base_ptq(published=true) 32 synthetic(lr=0.1) images by 8 on all of 6 seed=0 int8"
    assert made.float_key == "tag float on all of 6"  # which leaves no image of the folder out


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    for content in ("{", "[]", '{"rows": 1}'):
        file.write_text(content)
        assert imagenet.main(["--data", str(tmp_path), "--out", str(file)]) == 2
        assert file.read_text() == content
    with pytest.raises(InputError, match="does not hold rows of this benchmark"):
        ImagenetResults(file).put("rows", "key", {})


def test_a_lock_that_a_killed_process_held_is_free(tmp_path: Path) -> None:
    (tmp_path / "out.json.lock").touch()
    write_json(tmp_path / "out.json", {"floats": {}, "rows": {"a": {"x": 1}}})
    ImagenetResults(tmp_path / "out.json").put("rows", "b", {"x": 2})
    assert ImagenetResults(tmp_path / "out.json").read()["rows"] == {"a": {"x": 1}, "b": {"x": 2}}
