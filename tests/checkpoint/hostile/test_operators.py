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
        *(
            "torch.frombuffer",
            "torch.from_numpy",
            "torch.tensor",
            "torch.as_tensor",
            "torch.compile",
            "torch.hub",
            "torch.ops",
        ),
        *("torch.autograd.grad", "torch.utils.cpp_extension.load", "torch._C._from_dlpack", "torch._C", "torch.fork"),
        *(
            "torch.set_num_threads",
            "torch.manual_seed",
            "torch.randn",
            "torch.rand_like",
            "torch.as_strided",
            "torch.vmap",
        ),
        *("torch.embedding_bag", "torch.sparse_coo_tensor", "torch.relu_", "torch.functional.os", "torch.jit.load"),
        *("torch.nn.functional.torch", "torch.nn.functional.handle_torch_function", "torch.nn.functional.ctc_loss"),
        *("torch.nn.functional.boolean_dispatch", "torch.nn.functional.relu_", "torch.nn.functional.importlib"),
        *("torch.linalg.torch", "torch.special.torch.load", "torch.fft.Tensor", "torch.Tensor.__getattribute__"),
        *("operator.call", "operator.iadd", "operator.delitem", "operator.itemgetter", "math.factorial", "math.comb"),
        *("builtins.type", "builtins.print", "builtins.globals", "builtins.object", "builtins.vars", "builtins.map"),
        *("aten.as_strided.default", "aten.empty.memory_format", "aten.new_empty.default", "aten.empty_like.default"),
        *(
            "aten.resize.default",
            "aten.set.source_Storage",
            "aten.randn.default",
            "aten.bernoulli.default",
            "aten.add.out",
        ),
        *("aten._unsafe_index.Tensor", "aten.ctc_loss.IntList", "aten.record_stream.default", "aten.is_pinned.default"),
        *("aten.embedding_dense_backward.default", "aten.item.default", "aten.save.default", "aten.add.int"),
        *(
            "aten.sparse_coo_tensor.size",
            "aten.quantize_per_tensor.default",
            "aten.add.Tensor.__call__",
            "aten.__class__",
        ),
        *(
            "prim.device.default",
            "c10d.allreduce_.default",
            "profiler._record_function_enter.default",
            "fxquant.x.default",
        ),
        *(
            "torchvision.roi_align.default",
            "torchvision.__loader__",
            "torchvision.io.read_file",
            "image.read_file.default",
        ),
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
        *(
            "const_data_ptr",
            "new_empty",
            "resize",
            "as_strided",
            "record_stream",
            "pin_memory",
            "bernoulli",
            "to_sparse",
        ),
        *(
            "values",
            "retain_grad",
            "register_post_accumulate_grad_hook",
            "module_load",
            "reinforce",
            "as_subclass",
            "xpu",
        ),
        *(
            "new_tensor",
            "is_shared",
            "random_",
            "split_",
            "encode",
            "join",
            "map2_",
            "grad",
            "data",
            "shape",
            "dim_order",
        ),
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


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "problem"),
    [
        ("torch.add", [{"node": "x"}, 1], {"out": {"node": "x"}}, "out= writes"),
        ("torch.nn.functional.normalize", [{"node": "x"}, 2.0, 1, 1e-12, {"node": "x"}], {}, "out= writes"),
        ("torch.nn.functional.relu", [{"node": "x"}, 1], {}, "inplace= writes"),
        ("torch.nn.functional.relu", [{"node": "x"}], {"inplace": {"node": "x"}}, "inplace= writes"),
        ("torch.nn.functional.embedding", [{"node": "x"}, {"node": "x"}, None, 1.0], {}, "max_norm= writes"),
        (
            "torch.batch_norm",
            [{"node": "x"}, None, None, {"node": "x"}, {"node": "x"}, True, 0.1, 0.1, False],
            {},
            "norm in",
        ),
        ("torch.zeros", [{"tuple": [1]}], {"pin_memory": True}, "pin_memory= pins"),
        ("builtins.max", [{"tuple": [1, 2]}], {"key": {"node": "x"}}, "key= calls"),
    ],
)
def test_writing_to_an_argument(target: str, args: Any, kwargs: dict[str, Any], problem: str, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {"op": "call_function", "target": target, "args": args, "kwargs": kwargs}

    refused(path, change, problem)


@pytest.mark.parametrize("parts", [[1.0], [1.0, "x"], [1, 2], 3, None, [1.0, {"float": "inf"}], [True, 1.0]])
def test_complex_numbers_of_another_form(parts: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1] |= {
            "op": "call_function",
            "target": "torch.mul",
            "args": [{"node": "x"}, {"complex": parts}],
        }

    refused(path, change, "two parts of a complex number")


@pytest.mark.parametrize(
    "content", [["namedtuple", []], ["all_return_types", []], ["max", [1, 2, 3]], ["max"], 3, ["max", 3]]
)
def test_named_values_of_another_form(content: Any, path: Path) -> None:
    def change(contents: Any, tensors: dict[str, Tensor]) -> None:
        contents["nodes"][1]["val"] = {"named": content}

    refused(path, change)


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
