"""`RecordInputs` puts a recorder on each input, and tells images from masks."""

from __future__ import annotations

import torch

import fxquant
from fxquant.graph.stages import Stage
from fxquant.observers.input_recorder import InputRecorder
from fxquant.passes.record_inputs import RecordInputs
from tests.support.check_pass import check_pass, check_unchanged, module_of
from tests.support.models import Conditioned, conditions

X = torch.randn(2, 5, 4)


def test_records_an_input_that_nothing_reads() -> None:
    gm = check_pass(
        RecordInputs(strict=True),
        module_of(lambda self, x, mask: torch.matmul(x, x.mT)),
        (X, X > 0),
        before="""
            (x, mask)
            mT = x.mT
            matmul = torch.matmul(x, mT)
            return matmul
        """,
        after="""
            (x, mask)
            input_x = observers.input_x(x)
            input_mask = observers.input_mask(mask)
            mT = input_x.mT
            matmul = torch.matmul(input_x, mT)
            return matmul
        """,
        stage=Stage.PREPARED,
    )
    assert [m.strict for m in gm.modules() if isinstance(m, InputRecorder)] == [True, True]
    check_unchanged(RecordInputs(strict=False), gm, (X, X > 0), Stage.PREPARED)


def test_images_are_told_from_masks() -> None:
    gm = fxquant.prepare(Conditioned().eval(), fxquant.recipe("minmax"), conditions())
    found = {m.operand: (m.images, m.infinite) for m in gm.modules() if isinstance(m, InputRecorder)}
    assert found == {"tokens": (True, False), "index": (False, False), "mask": (False, True)}
