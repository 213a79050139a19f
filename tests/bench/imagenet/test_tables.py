"""The published figures: models that exist, recipes that exist, placements as published."""

from __future__ import annotations

from collections import Counter

import timm

import fxquant
from bench.imagenet.figure import PublishedEvidence
from bench.imagenet.jobs import Job, forms
from bench.imagenet.low_bits import REFERENCES
from bench.imagenet.page import describe_gap, render
from bench.imagenet.tables import FIGURES
from fxquant import PerTensor
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
        assert published.top1 is None or published.top1 < published.float_top1
    for reference in REFERENCES:
        assert reference.model in models
        assert reference.top1 < reference.float_top1
    wrong = next(published for published in FIGURES if published.model.name == "ViT-B")
    assert "not comparable" in str(describe_gap(wrong, 85.096))


def test_published_figures_make_rows_of_recipes_that_exist() -> None:
    jobs = [
        Job(published, constants, published.calibration, None, 0, "int8", (1_281_167, 50_000), False)
        for published in FIGURES
        for constants in forms(published, ("published", "fxquant"))
    ]
    both = sum(published.departs for published in FIGURES)
    assert len({job.key for job in jobs}) == len(jobs) == len(FIGURES) + both
    # Alone NoisyQuant's vanilla, FQ-ViT's MinMax, EMA and Percentile, and PSAQ-ViT of a DeiT are the same with fxquant's.
    alone = [published for published in FIGURES if published.published is not None and not published.departs]
    assert len(alone) == 1 + 3 * 8 + 3 * 2
    for job in jobs:
        fxquant.recipe(job.figure.recipe, job.figure.w_bits, job.figure.a_bits, **job.options)
        make_options(job.synthesis or {})
    counts = Counter(published.table for published in FIGURES)
    assert counts == {"ptq4vit": 44, "noisyquant": 20, "fqvit": 48, "psaq": 10, "low_bits": 11 * 7 + 5 * 3 * 8}
    quoted = [published for published in FIGURES if published.evidence is PublishedEvidence.QUOTED]
    assert len(quoted) == 16 + 2 * 7
    text = render(jobs, {})
    assert "| ViT-B | W6A6 | PTQ4ViT | published | 32 | 84.54 | - | 81.65 | - | 2.89 | - |" in text
    assert "| ViT-S | W6A6 | NoisyQuant-Linear | fxquant | 1024 | 81.39 | - | 76.86* | - | 4.53 | - |" in text
    assert "| ViT-L | W8A8 | FQ-ViT 8/8/4 | published | 1000 | 85.81 | - | 84.89 | - | 0.92 | - |" in text
    assert "| ViT-S | W4A4 | RepQ-ViT + GPTQ | fxquant | 32 | 81.39 | - | 67.59* | - | 13.80 | - |" in text
    assert "| DeiT-T | W3A3 | GLF-Q | fxquant | 1024 | 72.21 | - | 56.48 | - | 15.73 | - |" in text
    assert "| ViT-B augreg2 | W6A6 | AdaLog | published | 32 | 85.10 | - | 84.80 | - | 0.30 | - |" in text
    assert "| ViT-B augreg2 | W8A8 | fxquant's default | fxquant | 32 | 85.10 | - | - | - | - | - |" in text
    assert "| DeiT-S | W4A4 | FIMA-Q | 79.85 | 76.87 | 2.98 |" in text
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


def test_every_recipe_that_calibrates_has_rows() -> None:
    untrained = set(fxquant.recipes()) - {
        "minmax",
        "ema",
        "percentile",
        "omse",
        "itpn",
        "vvtq",
    }  # fqvit has the observers
    assert {published.recipe for published in FIGURES} == untrained


def test_rows_that_nobody_published_have_the_constants_of_fxquant_alone() -> None:
    (own, *_) = [published for published in FIGURES if published.top1 is None]
    assert forms(own, ("published", "fxquant")) == forms(own, ("fxquant",)) == ["fxquant"]
    assert forms(own, ("published",)) == []
    assert "Published" not in render([Job(own, "fxquant", 32, None, 0, "int8", (9, 6), False)], {}).partition("\n\n")[2]
