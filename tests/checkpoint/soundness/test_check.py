"""Files that load nothing unsound: graphs that cannot run, constants that misfit, and what costs too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxquant
from fxquant import CheckpointError
from tests.support.checkpoints import at_stage, forge, images, node_of, vit
from tests.support.hostile import Change, refused


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the bytes of a small model at several stages, with all shapes declared."""
    folder = tmp_path_factory.mktemp("files")
    graphs = {
        "int8": at_stage("vit", "int8"),
        "twin": at_stage("vit", "int8", "ptq4vit"),
        "fake": at_stage("vit", "fake"),
        "norms": at_stage("swin", "fake", "fqvit"),
        "calibrated": at_stage("vit", "calibrated"),
        "float": fxquant.trace(vit(depth=1), images("vit")),
        "undeclared": at_stage("vit", "float"),
    }
    for name, gm in graphs.items():
        fxquant.save(gm, folder / name)
    return {name: (folder / name).read_bytes() for name in graphs}


def target_with(ending: str, tensors: dict[str, Tensor]) -> str:
    return next(key for key in tensors if key.endswith(ending))


def put(contents: Any, tensors: dict[str, Tensor], key: str, value: Tensor) -> None:
    contents["tensors"][key] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    tensors[key] = value.contiguous()


def resized(ending: str, *shape: int, fill: float = 1.0) -> Change:
    """Return a change that gives the first tensor whose name ends so another shape, and one value."""

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        key = target_with(ending, tensors)
        dtype = getattr(torch, contents["tensors"][key]["dtype"])
        put(contents, tensors, key, torch.full(shape, fill).to(dtype))

    return change


def filled(ending: str, value: float) -> Change:
    """Return a change that sets the first value of the first tensor whose name ends so."""

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        key = target_with(ending, tensors)
        changed = tensors[key].clone()
        changed.view(-1)[0] = value
        put(contents, tensors, key, changed)

    return change


def argument(target: str, index: int, value: Any) -> Change:
    """Return a change of an argument of the first node that calls `target`."""

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, target)["args"][index] = value

    return change


def another_operator(target: str, other: str) -> Change:
    """Return a change of what the first node that calls `target` calls."""

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node_of(contents, target)["target"] = other

    return change


CONSTANTS: list[tuple[str, Change, str]] = [
    ("int8", resized("fc1.bias_folded", 0), "bias: expected shape"),
    ("int8", resized("fc1.bias_folded", 1), "bias: expected shape"),
    ("int8", resized("fc1.weight_int8", 1, 32), "weight: expected 128 rows"),
    ("int8", resized("fc1.weight_int8", 0, 32), "weight: expected 128 rows"),
    ("int8", resized("fc1.scale", 4096), "weight: expected 4096 rows"),
    ("int8", resized("norm1.weight", 1), "weight: expected shape"),
    ("int8", resized("input_scale", 0), "scale: expected 0 axes"),
    ("int8", resized("input_zero_point", 0), "zero_point: expected shape"),
    ("int8", filled("fc1.scale", -1.0), "positive and finite"),
    ("int8", filled("fc1.scale", float("nan")), "positive and finite"),
    ("int8", filled("fc1.bias_folded", float("inf")), "finite"),
    ("int8", argument("fxquant.ops.quantize", 3, -200), "ends of codes"),
    ("int8", argument("fxquant.ops.quantize", 4, 2**31), "ends of codes"),
    ("int8", argument("fxquant.ops.extract_patches", 1, {"tuple": [0, 8]}), "kernel"),
    ("int8", argument("fxquant.ops.extract_patches", 3, {"tuple": [2**40, 2**40]}), "padding"),
    ("int8", argument("fxquant.ops.int8_linear_add", 3, None), "bias: expected a tensor"),
    ("int8", argument("fxquant.ops.int8_linear_add", 5, {"dtype": "int64"}), "dtype"),
    ("int8", argument("fxquant.ops.int8_linear_gelu_quantize", 4, "exact"), "approximate"),
    ("twin", resized("fc2.input_split", 2), "split: expected 0 axes"),
    ("twin", filled("fc2.input_high", 0.0), "high: expected scales"),
    ("fake", filled("fc1.weight_codes", 127), ""),
    ("norms", resized("residual_scale", 3), "scale: expected"),
    ("int8", argument("fxquant.ops.attention_quantize", 3, {"node": "check_input"}), "factor: expected a value of the"),
    (
        "fake",
        another_operator("fxquant.ops.dequantize", "fxquant.ops.dequantize_log2"),
        "too many positional arguments",
    ),
]


@pytest.mark.parametrize(("name", "change", "match"), CONSTANTS)
def test_constants_fit_their_sites(
    name: str, change: Change, match: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_bytes(files[name])
    if match:
        refused(path, change, match)
    else:
        forge(path, change)
        fxquant.load(path)


def insert(*nodes: dict[str, Any], into: str, index: int) -> Change:
    """Return a change that puts nodes before the first node that calls `into`, which reads the last of them."""

    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        reader = node_of(contents, into)
        place = contents["nodes"].index(reader)
        contents["nodes"][place:place] = nodes
        reader["args"][index] = {"node": nodes[-1]["name"]}

    return change


def call(name: str, target: str, *args: Any, op: str = "call_function") -> dict[str, Any]:
    return {"name": name, "op": op, "target": target, "args": list(args)}


X = {"node": "x"}
SIZE = call("n", "size", X, 0, op="call_method")
POWER = call("p", "operator.pow", {"node": "n"}, 2147483648)
TOWER = [SIZE, *(call(f"t{i}", "operator.pow", {"node": f"t{i - 1}" if i else "n"}, 63) for i in range(9))]
DOUBLED = [call("d0", "getattr", X, "shape")] + [
    call(f"d{i}", "operator.add", {"node": f"d{i - 1}"}, {"node": f"d{i - 1}"}) for i in range(1, 60)
]
DOUBLED[0]["target"] = "builtins.getattr"

COSTS: list[tuple[str, Change, str]] = [
    ("float", insert(SIZE, POWER, into="flatten", index=1), "more than 64 bits"),
    ("undeclared", insert(SIZE, POWER, into="flatten", index=1), "more than 4096 bits"),
    ("undeclared", insert(*TOWER, into="flatten", index=1), "more than 4096 bits"),
    ("float", insert(SIZE, call("s", "operator.lshift", {"node": "n"}, 2**31), into="flatten", index=1), "shift"),
    ("float", insert(*DOUBLED, into="flatten", index=1), "entries"),
    ("float", insert(call("r", "repeat", X, *[2**20] * 4, op="call_method"), into="flatten", index=1), ""),
    ("float", insert(call("a", "torch.arange", 2**45), into="flatten", index=1), "costs too much"),
    ("undeclared", insert(call("a", "torch.arange", 2**45), into="flatten", index=1), "costs too much"),
    ("float", insert(SIZE, call("z", "operator.floordiv", {"node": "n"}, 0), into="flatten", index=1), "ZeroDivision"),
    ("float", argument("torch.nn.functional.conv2d", 1, {"node": "x"}), ""),
    ("float", argument("torch.nn.functional.conv2d", 4, {"tuple": [2**30, 2**30]}), ""),
    ("float", argument("torch.nn.functional.conv2d", 0, {"node": "patch_embed_proj_weight"}), ""),
]


@pytest.mark.parametrize(("name", "change", "match"), COSTS)
def test_costs_are_bounded(name: str, change: Change, match: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(files[name])
    refused(path, change, match or "node '")


def another_value(contents: Any, tensors: dict[str, Tensor]) -> None:
    node_of(contents, "fxquant.ops.layer_norm_quantize")["val"]["tensor"][0][2] = 5


def no_input_value(contents: Any, tensors: dict[str, Tensor]) -> None:
    del contents["nodes"][0]["val"]


def another_input(contents: Any, tensors: dict[str, Tensor]) -> None:
    contents["nodes"][0]["val"]["tensor"][0][3] = 40


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("int8", another_value, "its value is said to be"),
        ("int8", another_input, "its check says"),
        ("float", no_input_value, "declared"),
        ("calibrated", resized("fc1_input.minimum", 3), "statistic 'minimum'"),
        ("calibrated", filled("fc1_weight.maximum", float("nan")), "is not finite"),
        ("calibrated", filled("norm1.weight", float("nan")), "holds NaN"),
        ("calibrated", filled("qkv_input.batches", -1), "number of batches"),
    ],
)
def test_what_is_known_agrees(name: str, change: Change, match: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(files[name])
    refused(path, change, match)


def test_constant_indices_lie_within_their_table(tmp_path: Path) -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 6)
            self.register_buffer("index", torch.tensor([2, 0, 1]))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)[:, self.index]
            return y

    path = tmp_path / "model"
    fxquant.save(fxquant.trace(Table().eval(), torch.randn(2, 3, 6)), path)
    fxquant.load(path)
    forge(path, filled("index", -3))
    fxquant.load(path)
    refused(path, filled("index", 3), "expected indices below 3, found 0 to 3")


def test_the_reason_names_node_and_operator(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(files["int8"])
    forge(path, resized("fc1.bias_folded", 1))
    with pytest.raises(
        CheckpointError, match=r"node 'int8_linear_gelu_quantize' \(call_function int8_linear_gelu_quantize\)"
    ):
        fxquant.load(path)
