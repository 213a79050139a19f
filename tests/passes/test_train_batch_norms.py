"""`train_batch_norms` gives batch norms a training mode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fxquant.graph.stages import Stage
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.train_batch_norms import train_batch_norms
from tests.support.check_pass import check_pass, check_unchanged, module_of, through

X = torch.randn(8, 4, 5, 5)


def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(4, momentum=0.3))
    module(X + 1)
    return module.eval()


def test_follows_the_batches_in_training_mode_alone() -> None:
    module = batch_norm()
    gm = check_pass(
        train_batch_norms,
        through(module, canonicalize).eval(),
        (X,),
        after="""
            (input)
            batch_norm_0 = train_modules.batch_norm_0(input, 0.running_mean, 0.running_var, 0.weight, 0.bias)
            return batch_norm_0
        """,
        stage=Stage.PREPARED,
    )
    batches = torch.randn(3, 16, 4, 5, 5) * 3
    for each in batches:
        assert torch.equal(gm.train()(each), module.train()(each))
        assert torch.equal(gm.get_buffer("0.running_mean"), module.get_buffer("0.running_mean"))
        assert torch.equal(gm.eval()(each), module.eval()(each))


def test_one_without_statistics_stays() -> None:
    function = module_of(lambda self, x: F.batch_norm(x, None, None, self.w, None, True), w=torch.ones(4))
    check_unchanged(train_batch_norms, through(function, canonicalize).eval(), (X,), Stage.PREPARED)
