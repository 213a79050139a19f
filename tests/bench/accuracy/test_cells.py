"""Cells of the accuracy benchmark: variants that are the same share one, whose name and digest tell it apart."""

from __future__ import annotations

import argparse

import fxquant
from bench.accuracy.cells import select_cells
from bench.accuracy.table import ABLATIONS, RECIPES
from tests.bench.accuracy.making import cell


def test_variants_that_are_the_same_share_a_cell() -> None:
    wanted = {"models": ["vit"], "outliers": ["with"], "bits": ["W8A8", "W4A4"], "recipes": list(RECIPES), "seeds": [0]}
    main_cells = select_cells(argparse.Namespace(**wanted, ablations=None))
    cells = select_cells(argparse.Namespace(**wanted, ablations=[]))
    assert cells[: len(main_cells)] == main_cells
    assert len({c.key for c in cells}) == len(cells)
    variants = {(v.recipe, str(sorted(v.options.items()))) for group in ABLATIONS.values() for v in group if v.options}
    assert len(cells) == len(main_cells) + len(variants)
    assert all(isinstance(c.config, fxquant.QuantConfig) for c in cells)


def test_names_and_digests_tell_cells_apart() -> None:
    told = cell(), cell("ema"), cell(outliers="with"), cell(seed=1), cell(bits="W4A8"), cell("base_ptq", metric="l2")
    assert len({c.key for c in told}) == len(told)
    assert cell("base_ptq", metric="l2", rounds=1).key == cell("base_ptq", rounds=1, metric="l2").key
    assert cell().digest == cell(outliers="with", seed=1).digest
    assert cell().digest != cell(bits="W4A8").digest
