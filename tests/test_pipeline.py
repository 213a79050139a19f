"""The pass lists and the loop that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

import fxquant
from fxquant import CalibrationError, PassError, Placement, pipeline
from fxquant.config.quant_config import QuantConfig
from fxquant.graph.rewrite import edit
from fxquant.graph.stages import Stage, stage_of
from tests.support.check_pass import graph_of, module_of

X = torch.randn(2, 3, 8, 8)


class Small(nn.Module):
    """A patch embedding, attention and a head: every pass has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.drop(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def names(passes: Any) -> list[str]:
    return [pipeline.pass_name(each) for each in passes]


def test_the_order_of_the_passes() -> None:
    assert names(pipeline.TRACE) == ["functionalize", "canonicalize", "expand_einsum", "expand_addmm", "own_products"]
    assert names(pipeline.prepare_passes(QuantConfig())) == [
        "fold_constants",
        "fold_batch_norm",
        "spell_convolutions",
        "linearize_matmul",
        "annotate",
        "decompose_attention",
        "insert_observers",
        "record_inputs",
    ]
    placed = pipeline.prepare_passes(QuantConfig(placement=Placement()))
    assert names(placed)[-3:] == ["observe_values", "insert_observers", "record_inputs"]
    assert names(pipeline.guard(())) == ["guard_inputs"]
    assert names(pipeline.CONVERT) == [
        "place_token_scales",
        "correct_bias",
        "add_noise",
        "quantize_operands",
        "dequantize_late",
        "keep_float32",
    ]
    assert names(pipeline.LOWER) == ["fold_noise", "lower_linear", "lower_convolution", "lower_matmul", "lower_float8"]
    assert names(pipeline.FUSE) == [
        "fold_sizes",
        "fuse_attention",
        "quantize_early",
        "fuse_layer_norm",
        "fuse_gelu",
        "fuse_residual",
    ]
    assert names(pipeline.compile_for_cpu(frozenset(), own=True)) == ["use_onednn", "use_cpu_kernels"]
    assert names(pipeline.compile_for_cpu(frozenset(), own=False)) == ["use_onednn"]
    assert names(pipeline.compile_for_cuda({})) == ["restore_float"]
    assert names(pipeline.SIMULATE) == ["simulate_products"]


def test_a_pass_class_is_named_in_snake_case() -> None:
    @dataclass(frozen=True)
    class FoldNoiseBias:
        def __call__(self, gm: fx.GraphModule) -> PassResult:
            return PassResult(gm, False)

    assert pipeline.pass_name(FoldNoiseBias()) == "fold_noise_bias"


def test_every_graph_is_dumped_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "trace"
    monkeypatch.setenv("FXQUANT_TRACE", str(folder))
    fxquant.quantize(Small().eval(), [X], recipe="minmax", attention=True)
    passes = (
        *pipeline.TRACE,
        *pipeline.prepare_passes(QuantConfig()),
        *pipeline.CONVERT,
        *pipeline.LOWER,
        *pipeline.FUSE,
        *pipeline.guard(()),
    )
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:02d}_{name}.txt" for i, name in enumerate(names(passes))]
    assert "dropout" in (folder / "00_functionalize.txt").read_text()
    assert "dropout" not in (folder / "01_canonicalize.txt").read_text()
    assert "scaled_dot_product_attention" in (folder / "09_annotate.txt").read_text()
    assert "scaled_dot_product_attention" not in (folder / "10_decompose_attention.txt").read_text()
    assert "extract_patches" in (folder / "21_lower_convolution.txt").read_text()


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FXQUANT_TRACE", raising=False)
    monkeypatch.chdir(tmp_path)
    fxquant.trace(Small().eval())
    assert not list(tmp_path.iterdir())


def test_each_verb_marks_the_stage_it_reaches() -> None:
    traced = fxquant.trace(Small().eval())
    prepared = fxquant.calibrate(fxquant.prepare(traced), [X], progress=False)
    stages = [stage_of(gm) for gm in (traced, prepared, fxquant.convert(prepared, "fake"), fxquant.convert(prepared))]
    assert stages == list(Stage)
    assert stage_of(fx.symbolic_trace(nn.Linear(2, 2))) is None


def leave_a_spelling(gm: fx.GraphModule) -> PassResult:
    def change(module: fx.GraphModule) -> bool:
        (output,) = [n for n in module.graph.nodes if n.op == "output"]
        with module.graph.inserting_before(output):
            output.update_arg(0, module.graph.call_method("softmax", (output.args[0], -1)))
        return True

    return edit(gm, change)


def do_nothing(gm: fx.GraphModule) -> PassResult:
    return PassResult(gm, False)


def break_down(gm: fx.GraphModule) -> PassResult:
    raise RuntimeError("cannot")


def refuse(gm: fx.GraphModule) -> PassResult:
    raise CalibrationError("node 'fc' was never calibrated")


def linear_graph() -> fx.GraphModule:
    return fxquant.trace(nn.Linear(4, 4).eval())


@pytest.mark.parametrize("after", [(), (do_nothing,)])
def test_the_spec_is_checked_after_each_pass(after: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_TRACE", str(tmp_path))
    with pytest.raises(PassError, match=r"pass 'leave_a_spelling' .*canonical spelling softmax\(linear, -1\)"):
        pipeline.run(linear_graph(), (leave_a_spelling, *after), Stage.PREPARED)
    assert "softmax" in next(tmp_path.glob("*_leave_a_spelling.txt")).read_text(), "the illegal graph can be read"


def test_an_unexpected_failure_names_the_pass_and_one_of_ours_stays_itself() -> None:
    with pytest.raises(PassError, match=r"pass 'break_down' failed.*RuntimeError: cannot") as raised:
        pipeline.run(linear_graph(), (break_down,), Stage.FLOAT)
    assert isinstance(raised.value.__cause__, RuntimeError)
    with pytest.raises(CalibrationError, match="never calibrated"):
        pipeline.run(linear_graph(), (refuse,), Stage.FLOAT)


def test_tensors_that_nothing_reads_are_dropped_at_the_end() -> None:
    module = module_of(lambda self, x: x * self.used, used=torch.ones(4), unused=torch.ones(4))
    gm = pipeline.run(graph_of(module), pipeline.TRACE, Stage.FLOAT)
    assert set(gm.state_dict()) == {"used"}
    prepared = fxquant.calibrate(fxquant.prepare(Small().eval()), [X], progress=False)
    assert "qkv.weight" not in fxquant.convert(prepared).state_dict()
    assert not [n for n, _ in fxquant.convert(prepared).named_modules() if n.startswith("observers")]
