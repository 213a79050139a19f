"""Text of a file in the places where it could become code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxquant
from tests.support import checkpoints
from tests.support.checkpoints import at_stage, forge, node_of
from tests.support.hostile import INJECTIONS, refused


def test_a_forged_file_without_changes_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FX_GRAPH_SHOW_META")
    forge(path, lambda contents, tensors: None)
    checkpoints.assert_same(at_stage("conv", "int8"), fxquant.load(path))


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("place", ["name", "target of placeholder", "keyword", "class"])
def test_text_for_a_name(text: str, place: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node = node_of(contents, "fxquant.ops.int8_linear")
        if place == "name":
            node["name"] = text
        elif place == "target of placeholder":
            contents["nodes"][0]["target"] = text
        elif place == "keyword":
            node["kwargs"] = {text: 1}
        else:
            contents["class"] = text

    refused(path, change, "expected an identifier")


@pytest.mark.parametrize("text", [text for text in INJECTIONS if text not in ("a b", "a-b", "1x", "class", "\u2179")])
def test_text_for_a_key(text: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, "fxquant.ops.int8_linear")["args"][0] = {"dict": [[text, 1]]}

    refused(path, change, "key: expected words")


@pytest.mark.parametrize("text", [t for t in INJECTIONS if t != "a-b" and t != "1x"])
@pytest.mark.parametrize("kind", ["get_attr", "slot", "both"])
def test_text_for_the_path_of_a_tensor(text: str, kind: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        if kind != "get_attr":
            contents["slots"][0]["name"] = f"head.{text}"
        if kind != "slot":
            node_of(contents, contents["slots"][0]["tensor"])["target"] = f"head.{text}"

    refused(path, change)


@pytest.mark.parametrize("text", [t for t in INJECTIONS if t != "a-b" and t != "1x"])
def test_text_for_the_path_of_a_module(text: str, prepared: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["modules"][0]["path"] = text
        next(n for n in contents["nodes"] if n["op"] == "call_module")["target"] = text

    refused(prepared, change)


@pytest.mark.parametrize(
    "place", ["stack path", "stack type", "record label", "record reason", "operand", "module operand"]
)
@pytest.mark.parametrize(
    "text", ['""" ; __import__("fxquant_canary") ; """', "\n__import__('fxquant_canary')\n", "\ud800"]
)
def test_text_that_could_end_a_docstring(place: str, text: str, prepared: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        record = next(node["record"] for node in contents["nodes"] if "record" in node)
        if place.startswith("stack"):
            contents["stacks"][0][0][1 if place == "stack path" else 2] = text
        elif place.startswith("record"):
            record[place.split()[1]] = text
        elif place == "operand":
            record["operands"][0]["name"] = text
        else:
            contents["modules"][0]["operand"] = text

    refused(prepared, change, "expected one line of text")


def test_strings_are_only_strings(path: Path) -> None:
    text = "');__import__('fxquant_canary')#\n\"\"\"\\"

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, "fxquant.ops.check_input")["args"][2] = text

    forge(path, change)
    loaded = fxquant.load(path)
    assert loaded.graph.find_nodes(op="call_function", target=fxquant.ops.check_input)[0].args[2] == text
    with pytest.raises(fxquant.InputError):
        loaded(torch.zeros(1, 1))
