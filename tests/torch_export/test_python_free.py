"""A program without Python has no operators but torch's and those of the libraries, and computes what the kernels compute."""

from __future__ import annotations

import pytest
import torch

import fxquant
from fxquant import InputError, UnsupportedGraphError
from fxquant.kernels import cpu
from fxquant.ops import int8_matmul
from fxquant.torch_export import python_free
from fxquant.torch_export.python_free import python_free_program
from tests.support.needs_cpu_kernels import needs_kernels
from tests.torch_export.test_pt2e_program import mlp
from tests.torch_export.test_standard_quantizers import Attention

pytestmark = needs_kernels


def test_products_run_on_the_kernels() -> None:
    gm = mlp("int8")
    program = python_free_program(gm)
    names = {str(n.target) for n in program.graph.nodes if str(n.target).startswith("fxquant")}
    assert names == {"fxquant.cpu_layer_norm_quantize.default", "fxquant.cpu_gemm.default"}
    for batch in (1, 4, 7):
        x = torch.randn(batch, 5, 8)
        assert torch.equal(program.module()(x), gm(x))


@pytest.mark.long
def test_products_of_attention_are_float_products_of_the_codes() -> None:
    torch.manual_seed(0)
    gm = fxquant.quantize(Attention().eval(), [torch.randn(4, 20, 16)], "minmax", attention=True, progress=False)
    program, x = python_free_program(gm), torch.randn(3, 20, 16)
    assert len([n for n in gm.graph.nodes if n.target is int8_matmul]) == 2
    assert "batched_int_mm" not in str(program.graph)
    assert torch.equal(program.module()(x), gm(x))


def test_refuses_operators_that_need_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_free, "plain_guards", lambda gm: None)
    with pytest.raises(UnsupportedGraphError, match="which these operators need: fxquant::check_values"):
        python_free_program(mlp("int8"))


def test_says_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "obstacle", lambda: "no compiler")
    with pytest.raises(InputError, match="kernels, which a package takes in: no compiler"):
        python_free_program(mlp("int8"))
