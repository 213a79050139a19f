"""What README, docs and CONTRIBUTING say can be typed, imported, opened and followed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import reduce
from typing import Any

import pytest

import fxquant
from fxquant.cli.main import parse
from tests.support import documents
from tests.support.documents import Block

GENERATED = ("docs/accuracy.md", "docs/zoo.md")
OWN_TEST = "docs/published.md"  # whose commands are options of other scripts
WRITTEN = [page for page in documents.PAGES if page not in (*GENERATED, OWN_TEST)]
PYTHON = [block for page in WRITTEN for block in documents.blocks(page, "python")]
COMMANDS = [(page, words) for page in WRITTEN for words in documents.fxquant_commands(page)]
TOP = {file.name for file in documents.ROOT.iterdir()}
# What would be a measurement: figures belong into tables that are made from the results.
_FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:%|ms\b|dB\b|seconds\b|minutes\b|hours\b|points\b|times (?:as|less|faster|more|slower)\b)"
)
_CHOSEN = ("14 dB",)  # a limit in the code, see `fxquant.benchmark`


def title(case: Any) -> str:
    return f"{case.page}" if isinstance(case, Block) else str(case) if isinstance(case, str) else " ".join(case)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=title)
def test_commands_can_be_typed(page: str, words: list[str]) -> None:
    assert {word for word in words if word.startswith("--")} <= documents.known_options(words[0])
    if ("--help" not in words and len(words) > 1) or words[0] in ("demo", "recipes"):
        parse(words)


def test_there_are_commands_of_every_kind() -> None:
    assert {words[0] for _, words in COMMANDS} >= {
        "eval",
        "quantize",
        "bench",
        "predict",
        "train",
        "make-labels",
        "synthesize",
        "demo",
    }


@pytest.mark.parametrize("page", WRITTEN)
def test_options_in_the_text_exist(page: str) -> None:
    commands = (
        "eval",
        "quantize",
        "bench",
        "train",
        "make-labels",
        "pack-labels",
        "synthesize",
        "inspect",
        "doctor",
        "demo",
    )
    known = set.union(*map(documents.known_options, commands))
    found = {span.split()[0] for span in documents.names(page) if span.startswith("--")}
    assert found <= known | options_of_scripts(page) | {"--max-restarts"}  # torchrun's


def options_of_scripts(page: str) -> set[str]:
    """Return the options that the page's own commands give to other programs than fxquant, as far as their text has them."""
    found: set[str] = set()
    for line in documents.command_lines(page):
        script = re.search(r"python (?:-m (bench[\w.]*)|(examples/\S+\.py))", line)
        if script:
            file = documents.ROOT / (script[2] or script[1].replace(".", "/"))
            text = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text(encoding="utf-8")
            found |= {option for option in re.findall(r"--[\w-]+", text) if option in line}
    return found


@pytest.mark.parametrize("page", WRITTEN)
def test_names_exist(page: str) -> None:
    for name in re.findall(r"\bfxquant(?:\.\w+)+", "\n".join(documents.names(page))):
        found: Any = fxquant
        for part in name.split(".")[1:]:
            found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    calls = [call for span in documents.names(page) for call in re.findall(r"\b([A-Z]\w+)\(", span)]
    assert all(hasattr(fxquant, call) for call in calls), calls


@pytest.mark.parametrize("block", PYTHON, ids=title)
def test_python_compiles_and_imports(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(importlib.import_module(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (
                pytest.importorskip(str(node.module))
                if is_optional(node)
                else importlib.import_module(str(node.module))
            )
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call):
            check_call(node)


def is_optional(node: ast.ImportFrom) -> bool:
    """Say whether a block imports from torchao, which the extra `bench` alone installs."""
    return str(node.module).partition(".")[0] == "torchao"


def check_call(node: ast.Call) -> None:
    """Check that a function of fxquant exists and takes these keywords."""
    name = ast.unparse(node.func)
    if not re.fullmatch(r"fxquant(\.\w+)+", name):
        return
    function: Any = reduce(getattr, name.split(".")[1:], fxquant)
    parameters = inspect.signature(function).parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert free or {keyword.arg for keyword in node.keywords} <= set(parameters), ast.unparse(node)


@pytest.mark.parametrize("page", WRITTEN)
def test_paths_exist(page: str) -> None:
    missing = [path for path in documents.paths(page) if not (documents.ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", documents.PAGES)
def test_links_resolve(page: str) -> None:
    for target in documents.links(page):
        file, _, anchor = target.partition("#")
        path = (documents.ROOT / page).parent / file if file else documents.ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in documents.anchors(str(path.resolve().relative_to(documents.ROOT))), target


@pytest.mark.parametrize("page", documents.PAGES)
def test_modules_can_be_run(page: str) -> None:
    missing = [module for module in documents.modules(page) if not documents.is_runnable(module)]
    assert not missing


@pytest.mark.parametrize("page", documents.PAGES)
def test_scripts_are_run_as_modules(page: str) -> None:
    assert not re.findall(r"python bench/\S*", documents.page(page))


@pytest.mark.parametrize("page", WRITTEN)
def test_figures_stand_in_tables(page: str) -> None:
    text = documents.prose(page)
    for limit in _CHOSEN:
        text = text.replace(limit, "")
    assert not _FIGURE.findall(text)
