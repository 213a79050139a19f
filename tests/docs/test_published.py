"""docs/published.md says what the code does: every command parses, every option exists, every mark is that of the recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import fields

import pytest
import timm
import torch
from torch import nn

import fxquant
from fxquant import LogIntSoftmax, Placement, TensorSpec, Value
from fxquant.cli.main import parse
from fxquant.cli.options.train import training_options
from fxquant.cli.recipes import recipe_defaults
from fxquant.cli.resolve import collect_options, resolve_recipe
from fxquant.models import ITPN
from fxquant.observers import Observer, PowerOfTwoFactor
from fxquant.synthesis.synthesis_options import SynthesisOptions, make_options
from tests.support import documents
from tests.support.documents import known_options, spans, tables

TEXT = documents.page("docs/published.md")
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 4}
SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
COMMON = "--val-batchsize --num-workers --device --print-freq --seed --calib-batchsize"
PUBLISHED = (
    f"--quant --ptf --pts --lis --quant-method --calib-iter {COMMON}",
    f"--model --dataset --mode --w_bit --a_bit {COMMON}",
    "--data --model --wbits --abits --epochs --start-epoch --lr --wd --resume --evaluate --finetune --num_crops"
    " --softlabel_path --soft_label_type --num_classes --opt --sched --opt-eps --opt-betas --warmup-epochs --warmup-lr --min-lr"
    " --use-offset --fixed-scale --mixpre --head-wise --reg --track-osc --budget --stage-ratio --bitops-scaler --log"
    " --show-bit-state --save_checkpoint_path --save-ptq --seed --gpu --world-size --rank --dist-url --dist-backend"
    " --multiprocessing-distributed --drop-path --clip-grad --arch --schedule --momentum --pretrained --cos --drop"
    " --act-unsigned --act-layer",
    "--model --pretrained --quant --bitwidth --with_noisy_quant --calib_root --calib_num"
    " --percentile --search_mean --search_noisy",
    "--data_path --model --calib_num --method --metric --fs",
    "--multiprocess --n_gpu",
)  # of each table


OTHERS = ("PTQ4ViT_noisy", "sret_t", "sret_lt", "sret_s", "model", "log.csv")  # a script, models, a key, a file


COMMANDS = [
    (row[0], span) for header, *rows in tables(TEXT) if "here" in header for row in rows for span in spans(row[2])
]


def check_evaluation(words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= known_options("eval")
    options = parse(["eval", "vit", *words, *([] if "--data" in words else ["--data", "DIR"])])
    resolve_recipe(options)
    make_options(collect_options(options.synthesis))


def check_synthesis(words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= known_options("synthesize")
    options = parse(["synthesize", *words])
    make_options(collect_options(options.option))


def check_training(words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= known_options("train")
    given = [w for name in ("--data", "--out") if name not in words for w in (name, "DIR")]
    options = parse(["train", "vit", *given, *words])
    resolve_recipe(options)
    training_options(options)


@pytest.mark.parametrize("command", [span for _, span in COMMANDS])
def test_what_to_type_can_be_typed(command: str) -> None:
    words = shlex.split(command)
    if words[0].startswith("--"):
        check_evaluation(words)
    elif words[:2] == ["fxquant", "synthesize"]:
        check_synthesis(words[2:])
    elif words[:2] == ["fxquant", "train"]:
        check_training(words[2:])
    elif words[:2] == ["fxquant", "quantize"]:
        check_evaluation(words[2:])
    elif words[0] == "torchrun":
        assert words[3] == "-m"
        assert documents.is_runnable(words[4]) or words[4:6] == ["fxquant", "train"]
    else:
        assert timm.list_pretrained(f"{words[0]}*"), f"timm has no {words[0]}"


def test_no_published_option_is_left_out() -> None:
    found = [
        {word for row in rows for span in spans(row[0]) for word in span.split() if word.startswith("--")}
        for header, *rows in tables(TEXT)
        if "here" in header
    ]
    assert found == [set(options.split()) for options in PUBLISHED]


def test_every_other_name_exists() -> None:
    """Names in the notes of the tables and in the text: options, of the commands and of recipes, functions and fields."""
    options = {name for recipe in fxquant.recipes() for name in recipe_defaults(recipe)}
    options |= {field.name for field in fields(SynthesisOptions)} | {value.value for value in Value}
    published = {word for name, _ in COMMANDS for span in spans(name) for word in span.split()}
    notes = " ".join(row[3] for header, *rows in tables(TEXT) if "here" in header for row in rows)
    for span in spans(notes + " " + re.sub(r"^\|.*$", "", TEXT, flags=re.MULTILINE)):
        words = shlex.split(span)
        if len(words) > 1 and words[0] == "--recipe":
            check_evaluation(words)
        elif words[0].startswith("--"):
            assert words[0] in published | known_options("eval")
        elif words[0].startswith("fxquant."):
            assert hasattr(fxquant, words[0].partition(".")[2])
        elif words[:2] == ["fxquant", "eval"]:
            check_evaluation(words[3:])
        elif words[0] == "fxquant":
            known_options(words[1])
        elif words[0] == "python":
            assert words[1] == "-m"
            assert documents.is_runnable(words[2])
        elif len(words) == 1 and not words[0].endswith((".py", "/")):
            name = words[0].partition("=")[0]
            assert name in options | {*fxquant.recipes(), "eval"} or hasattr(fxquant, name) or name in OTHERS


def test_models_exist() -> None:
    _, *rows = next(table for table in tables(TEXT) if table[0][-1] == "timm")
    for published, names in rows:
        for short, name in zip(spans(published), spans(names), strict=True):
            assert name.startswith(short)
            assert name in timm.list_pretrained(f"{name}*") or (timm.is_model(name) and name.startswith("itpn"))


def mark(spec: object) -> str:
    """Return the word of the table for a spec."""
    if spec is None:
        return "float"
    if isinstance(spec, LogIntSoftmax):
        return "log-int"
    assert isinstance(spec, TensorSpec)
    return "factor" if isinstance(spec.observer, PowerOfTwoFactor) else "scale"


def vit() -> nn.Module:
    model: nn.Module = timm.create_model("deit_tiny_patch16_224", **VIT)
    return model


def swin() -> nn.Module:
    model: nn.Module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **SWIN)
    return model


def itpn() -> nn.Module:
    return ITPN(img_size=32, embed_dim=32, mlp_depth=1, depth=1, num_heads=2, num_classes=4)


def values_of(model: nn.Module) -> set[str]:
    """Return the kinds of values that a model has, by observing all of them."""
    torch.manual_seed(0)
    placement = Placement(**{value.value: TensorSpec() for value in Value})
    prepared = fxquant.prepare(model.eval(), fxquant.QuantConfig(placement=placement))
    names = (m.operand.rpartition(".")[2] for m in prepared.modules() if isinstance(m, Observer))
    kinds = "|".join(value.value for value in Value)
    return {found[1] for name in names if (found := re.fullmatch(rf"({kinds})(_\d+)?", name))}


@pytest.mark.parametrize(("title", "build"), [("ViT", vit), ("Swin", swin), ("iTPN", itpn)])
def test_the_values_are_those_that_are_quantised(title: str, build: Callable[[], nn.Module]) -> None:
    header, *rows = next(table for table in tables(TEXT) if table[0][0] == "`Placement`")
    assert [spans(row[0]) for row in rows] == [[value.value] for value in Value]
    present = values_of(build())
    columns = [column for column, name in enumerate(header) if name.endswith(f": {title}")]
    assert columns
    for column in columns:
        placement = fxquant.recipe(header[column].partition(":")[0]).placement
        assert placement
        expected = {v.value: mark(placement.spec_for(v)) if v.value in present else "" for v in Value}
        assert {value.value: row[column] for value, row in zip(Value, rows, strict=True)} == expected
