"""
``docs/passes.md``: every pass in the order in which it runs, with what its docstring says.

``python -m bench.pass_list`` writes the page anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from bench.harness.results import ROOT
from fxquant import pipeline
from fxquant.config.folds import Folds
from fxquant.config.placement import Placement
from fxquant.config.quant_config import QuantConfig
from fxquant.graph.rewrite import Pass
from fxquant.passes.respell_aten import respell_aten

PAGE = "docs/passes.md"
_INTRODUCTION = """\
# Passes

A pass reads a graph and rewrites it. `passes/` has a file for each, and `fxquant/pipeline.py` the order. This page has all of
them in that order, with what their docstrings say; `python -m bench.pass_list` writes it. [Architecture](architecture.md) shows
a whole model on its way through them, and [writing a pass](writing-a-pass.md) how one is made.

Shapes have fixed letters: `B` images, `N` tokens, `C` channels, `H` heads, `D` channels of a head, `K` inputs and `O` outputs
of a layer. `s` is a scale and `z` a zero point."""
_EVERY_FOLD = Folds(layer_scale=True, affine=True, center=True, rotate=True, rotate_heads=True)


class Phase(NamedTuple):
    """Passes that run one after the other. when: a sentence on when they do."""

    title: str
    when: str
    passes: Sequence[Pass]


def phases() -> tuple[Phase, ...]:
    """Return what runs, in order."""
    return (
        Phase(
            "trace",
            "`fxquant.trace` brings the captured graph into one dialect. The first is for what `torch.export` captured.",
            (respell_aten, *pipeline.TRACE),
        ),
        Phase(
            "prepare",
            "`fxquant.prepare` folds what can be folded, decides what is quantised, and puts observers in. The config decides "
            "about the cast and the folds.",
            pipeline.prepare_passes(QuantConfig(float_dtype=torch.bfloat16, folds=_EVERY_FOLD)),
        ),
        Phase(
            "prepare, with a placement",
            "Recipes that round values wherever they go have one pass more.",
            pipeline.prepare_passes(QuantConfig(placement=Placement())),
        ),
        Phase(
            "calibrate",
            "`fxquant.calibrate` folds norms by what it has seen of their channels, where the config asks for it.",
            pipeline.norm_passes({}),
        ),
        Phase(
            "prepare_qat",
            "`fxquant.prepare_qat` prepares a model to be trained.",
            pipeline.qat_passes(QuantConfig(), 0.1),
        ),
        Phase(
            "convert, after training",
            "`fxquant.convert` begins with these where the graph was trained.",
            pipeline.END_TRAINING,
        ),
        Phase("convert", "`fxquant.convert` puts codes in place of observers.", pipeline.CONVERT),
        Phase("convert, to int8", "Unless the target is `fake`, products are computed on codes.", pipeline.LOWER),
        Phase("convert, fused", "What stands around the products moves into them.", pipeline.FUSE),
        Phase("convert, at the end", "Whatever the target, the inputs are looked at.", pipeline.guard(())),
        Phase("export", "`fxquant.export_onnx` undoes what `fxquant.convert` did for int8.", pipeline.SIMULATE),
        Phase(
            "compile on x86",
            "`fxquant.compile` chooses kernels and packs weights.",
            pipeline.compile_for_cpu(frozenset(), own=True),
        ),
        Phase(
            "compile on CUDA",
            "`fxquant.compile` gives back to float what int8 makes slower.",
            pipeline.compile_for_cuda({}),
        ),
    )


def render() -> str:
    """Return the page; a pass that runs in several phases is described in the first."""
    described: set[str] = set()
    return "\n\n".join([_INTRODUCTION, *(block for phase in phases() for block in _blocks(phase, described))]) + "\n"


def _blocks(phase: Phase, described: set[str]) -> Iterator[str]:
    names = [pipeline.pass_name(each) for each in phase.passes]
    yield f"## {phase.title}"
    yield f"{phase.when} In order: {', '.join(f'[{name}](#{name})' for name in names)}."
    for name, each in zip(names, phase.passes, strict=True):
        if name not in described:
            described.add(name)
            yield f"### {name}"
            yield from _description(each)


def _description(each: Pass) -> Iterator[str]:
    """Yield the paragraphs of a docstring, those of Before and Becomes as code."""
    documented = each if inspect.isfunction(each) else type(each)
    for paragraph in (inspect.getdoc(documented) or "").split("\n\n"):
        yield f"```\n{paragraph}\n```" if paragraph.startswith("Before:") else paragraph


if __name__ == "__main__":
    (ROOT / PAGE).write_text(render(), encoding="utf-8")
