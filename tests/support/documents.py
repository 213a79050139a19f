"""What the tests of README and docs read in a page: blocks, commands, names, paths, links, tables, and graphs as text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from torch import Tensor, fx

from fxquant.cli.main import parse

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *(file.relative_to(ROOT).as_posix() for file in sorted((ROOT / "docs").rglob("*.md"))),
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_PATH = re.compile(
    r"(?:fxquant|passes|tests|bench|docs|\.ci)(?:/[\w.-]+)*/?|[A-Z][\w-]*(?:\.md)?|[\w-]+\.(?:md|toml|txt)"
)
# A graph's operators as people write them.
_SEVERAL = ("unbind", "chunk", "split")
_INFIX = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "matmul": "@"}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    language: str
    text: str


def page(name: str) -> str:
    """Return the text of a page, by its path below the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, of one language or of any."""
    found = [Block(name, kind, text) for kind, text in _FENCE.findall(page(name))]
    return [block for block in found if language is None or block.language == language]


def run(name: str, **given: Any) -> dict[str, Any]:
    """Run the Python blocks of a page in order, as one program to which names are `given`, and return what it named."""
    found: dict[str, Any] = {"__name__": name, **given}
    for block in blocks(name, "python"):
        exec(compile(block.text, name, "exec"), found)
    return found


def prose(name: str) -> str:
    """Return a page without its fenced blocks, its tables and what stands between markers."""
    text = re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", page(name), flags=re.DOTALL)
    return _TABLE.sub("", _FENCE.sub("", text))


def spans(text: str) -> list[str]:
    """Return what stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def names(name: str) -> list[str]:
    """Return the code spans of a page outside of fenced blocks."""
    return spans(_FENCE.sub("", page(name)))


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield each table: the cells of its header and of its rows."""
    for block in _TABLE.findall(text):
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        yield [header, *rows]


def command_lines(name: str) -> list[str]:
    """Return the commands of a page: lines of its shell blocks, comments cut off, and code spans of several words."""
    lines = [line.partition("  #")[0].strip() for block in blocks(name, "") for line in block.text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")] + [s for s in names(name) if " " in s]


def fxquant_commands(name: str) -> list[list[str]]:
    """Return the words behind ``fxquant`` of each command of a page, under torchrun too."""
    found = []
    for line in command_lines(name):
        if re.match(r"fxquant [a-z][a-z-]*", line):
            found.append(shlex.split(re.split(r" [>|] ", line)[0])[1:])  # without where the output goes
        elif line.startswith("torchrun ") and " -m fxquant " in line:
            found.append(shlex.split(line.partition(" -m fxquant ")[2]))
    return found


def modules(name: str) -> list[str]:
    """Return the modules of this project that a page runs by ``python -m`` or torchrun, other than fxquant."""
    return re.findall(r"(?:python|torchrun) .*?-m (bench[\w.]*)", "\n".join(command_lines(name)))


def is_runnable(module: str) -> bool:
    """Say whether ``python -m module`` finds a file to run."""
    file = ROOT.joinpath(*module.split("."))
    return file.with_suffix(".py").is_file() or (file / "__main__.py").is_file()


def paths(name: str) -> list[str]:
    """Return the files and folders that a page names in code spans."""
    return [
        span for span in names(name) if _PATH.fullmatch(span) and (" " not in span) and ("/" in span or "." in span)
    ]


def links(name: str) -> list[str]:
    """Return the targets of a page's links within the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page(name)) if "://" not in target]


def anchors(name: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", page(name)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def marked(name: str) -> list[str]:
    """Return the names of the markers in a page."""
    return re.findall(r"<!-- ([\w-]+):begin -->", page(name))


def between(name: str, marker: str) -> str:
    """Return what stands between the markers, without the fence where there is one."""
    text = page(name).partition(f"<!-- {marker}:begin -->\n")[2].partition(f"\n<!-- {marker}:end -->")[0]
    fenced = re.fullmatch(r"```\w*\n(.*)\n```", text, re.DOTALL)
    return fenced[1] if fenced else text


@cache
def known_options(command: str) -> set[str]:
    """Return the options of a command as they are written: argparse takes abbreviations too."""
    with redirect_stdout(StringIO()) as out, pytest.raises(SystemExit):
        parse([command, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue()))


def listing(gm: fx.GraphModule) -> str:
    """
    Return a graph as README and docs show it: a letter and the dtype of each result, and the tensors it is made of by name.

    Numbers, sizes and dtypes among the arguments are left out, and so is what computes sizes alone.
    """
    known: dict[fx.Node, str] = {}
    inputs = {str(node.target) for node in gm.graph.nodes if node.op == "placeholder"}
    letters = (a + b for a in ("", *ascii_lowercase) for b in ascii_lowercase if a + b not in inputs)
    lines = []
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        if node.op in ("placeholder", "get_attr"):
            known[node] = str(node.target)
        elif node.op == "output":
            lines.append(f"return {', '.join(_operands(node.args, known))}")
        elif isinstance(value, Tensor):
            call, known[node] = _call(node, known), next(letters)
            lines.append(f"{known[node]}: {str(value.dtype).removeprefix('torch.')} = {call}")
        elif node.target in _SEVERAL:
            known[node] = known[node.args[0]]  # its parts are read by their index
    return "\n".join(lines)


def _call(node: fx.Node, known: dict[fx.Node, str]) -> str:
    name = str(getattr(node.target, "__name__", node.target))
    operands = _operands((node.args, node.kwargs), known)
    if name in _INFIX and len(operands) == 2:
        return f" {_INFIX[name]} ".join(operands)
    if name == "getitem" and isinstance(node.args[1], int):
        return f"{operands[0]}[{node.args[1]}]"
    if node.op == "call_method":
        return f"{operands[0]}.{name}()" if len(operands) == 1 else f"{operands[0]}.{name}({', '.join(operands[1:])})"
    return f"{name}({', '.join(operands)})"


def _operands(arguments: Any, known: dict[fx.Node, str]) -> list[str]:
    found: list[str] = []

    def visit(node: fx.Node) -> fx.Node:
        if known.get(node):
            found.append(known[node])
        return node

    fx.map_arg(arguments, visit)
    return found
