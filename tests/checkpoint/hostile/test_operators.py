"""Files that name functions, methods and kinds of nodes outside the dialect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.support import checkpoints
from tests.support.hostile import refused


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "builtins.compile"),
        *("builtins.setattr", "operator.attrgetter", "operator.methodcaller", "operator.setitem", "operator.call"),
        *("torch.load", "torch.save", "torch.ops.load_library", "torch.hub.load", "torch.from_file", "torch.empty"),
        *("torch.nn.functional.__builtins__", "math.__loader__", "timm.create_model", "timm.layers.os", "posix.system"),
        *(
            "aten.set_.source_Tensor",
            "aten.from_file.default",
            "aten.copy_.default",
            "aten.add_.Tensor",
            "aten.resize_",
        ),
        *(
            "fxquant.ops.quantize.__globals__",
            "fxquant.api.trace",
            "subprocess.run",
            "",
            "torch",
            "torch.",
            ".",
            "aten.",
        ),
        *(None, 3, ["torch.add"], {"node": "x"}, True),
    ],
)
def test_functions_outside_the_dialect(target: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        node = contents["nodes"][1]
        node |= {"op": "call_function", "target": target, "args": ["fxquant_canary"]}

    refused(path, change, "not in the dialect")


@pytest.mark.parametrize(
    "target",
    [
        *("numpy", "tolist", "item", "data_ptr", "tofile", "set_", "copy_", "add_", "share_memory_", "register_hook"),
        *("apply_", "map_", "storage", "untyped_storage", "cuda", "backward", "__reduce_ex__", "__class__", "format"),
        *("__getattribute__", "view.__call__", "requires_grad_", "resize_", "new", "type", "put_", "index_put_"),
    ],
)
def test_methods_outside_the_dialect(target: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": "call_method", "target": target, "args": [{"node": "x"}]}

    refused(path, change, "not in the dialect|expected an identifier")


def test_methods_of_other_things_than_nodes(path: Path) -> None:
    for args in ([], ["{0.__class__}"], [{"tuple": [{"node": "x"}]}]):

        def change(contents: Any, tensors: dict[str, Tensor], args: Any = args) -> None:
            contents["nodes"][1] |= {"op": "call_method", "target": "split", "args": args}

        refused(path, change, "expected the tensor whose method")


@pytest.mark.parametrize(
    "args",
    [
        *([{"node": "x"}, name] for name in ("__class__", "__dict__", "data", "grad_fn", "storage", "f_back", "")),
        *([{"node": "x"}, {"node": "x"}], [{"node": "x"}], [{"node": "x"}, "shape", None], ["shape", "shape"], []),
        [{"node": "x"}, {"tuple": ["shape"]}],
        [{"node": "x"}, 3],
    ],
)
def test_getattr_reads_attributes_like_shape_only(args: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": "call_function", "target": "builtins.getattr", "args": args}

    refused(path, change, "getattr expects")


def test_writing_to_an_argument(path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        added: dict[str, Any] = {"target": "torch.add", "args": [{"node": "x"}, 1]}
        contents["nodes"][1] |= {"op": "call_function", "kwargs": {"out": {"node": "x"}}} | added

    refused(path, change, "out= writes")


@pytest.mark.parametrize(
    ("op", "args"),
    [
        *(("placeholder", [1]), ("placeholder", [{"node": "x"}]), ("get_attr", [1]), ("call_module", []), ("root", [])),
        *(("call_module", [{"node": "x"}, 1]), ("call_module", ["x"]), ("output", []), ("output", [1, 2])),
        *(("eval", []), ("", []), (None, []), (3, []), ("get_attr", {"node": "x"}), ("placeholder", None)),
    ],
)
def test_other_kinds_of_nodes(op: Any, args: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": op, "args": args}

    refused(path, change)


def test_references_point_backwards(path: Path) -> None:
    contents, _ = checkpoints.read_parts(path)
    last = contents["nodes"][-2]["name"]
    for name in (last, "nothing", contents["nodes"][1]["name"], 3, None, ["x"]):

        def change(contents: Any, tensors: dict[str, Tensor], name: Any = name) -> None:
            contents["nodes"][1]["args"][0] = {"node": name}

        refused(path, change, "no earlier node defines")
