"""The Python spellings: each has one name, and none reaches beyond its arguments."""

from __future__ import annotations

import math
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fxquant.ops
from fxquant.dialect import functions
from fxquant.dialect.aten_table import ROWS
from fxquant.dialect.mutation import INPLACE_OPERATORS
from fxquant.dialect.spellings import SPELLINGS

KNOWN = functions.functions()


def test_every_name_finds_its_function_and_back() -> None:
    for name, function in KNOWN.items():
        assert KNOWN[functions.names()[function]] is function, name


def test_all_operators_of_fxquant_are_in_it() -> None:
    for name in fxquant.ops.__all__:
        assert KNOWN[f"fxquant.ops.{name}"] is getattr(fxquant.ops, name)


def test_every_canonical_spelling_is_in_it() -> None:
    assert functions.names().keys() >= {spelling for spelling in SPELLINGS.values() if not isinstance(spelling, str)}


def test_every_spelling_of_an_exported_operator_is_in_it() -> None:
    for spelling, _ in ROWS.values():
        if isinstance(spelling, str):
            assert functions.method_refusal(spelling.removesuffix("_")) is None, spelling
        else:
            assert spelling in functions.names(), spelling


def test_no_operator_works_in_place() -> None:
    for name in (*KNOWN, *(n for n in dir(Tensor) if functions.method_refusal(n) is None)):
        assert not name.endswith("_") or name in ("operator.and_", "operator.or_", "operator.not_", "operator.is_"), (
            name
        )
    assert not INPLACE_OPERATORS.keys() & set(KNOWN.values())


@pytest.mark.parametrize(
    "name",
    [
        *("torch.sort", "torch.searchsorted", "torch.functional.einsum", "torch.einsum", "torch.unique", "torch.polar"),
        *("torch.nn.functional.affine_grid", "torch.nn.functional.conv_transpose3d", "torch.nn.functional.logsigmoid"),
        *("torch.linalg.svd", "torch.special.erf", "torch.fft.rfft2", "math.sin", "operator.lshift", "builtins.len"),
    ],
)
def test_functions_that_compute_are_in_it(name: str) -> None:
    assert (name in KNOWN) is (name != "torch.functional.einsum")


@pytest.mark.parametrize(
    "name",
    [
        *("load", "save", "from_file", "frombuffer", "from_numpy", "from_dlpack", "to_dlpack", "tensor", "as_tensor"),
        *(
            "asarray",
            "empty",
            "empty_like",
            "empty_strided",
            "as_strided",
            "compile",
            "hub",
            "ops",
            "autograd",
            "utils",
        ),
        *(
            "import_ir_module",
            "fork",
            "wait",
            "set_num_threads",
            "manual_seed",
            "seed",
            "randn",
            "rand_like",
            "bernoulli",
        ),
        *(
            "multinomial",
            "normal",
            "sparse_coo_tensor",
            "quantize_per_tensor",
            "cudnn_convolution",
            "embedding_bag",
            "vmap",
        ),
        *("relu_", "dropout_", "resize_as_", "_C", "_VF", "_dynamo", "equal", "allclose", "classes", "jit", "cond"),
    ],
)
def test_functions_of_torch_that_do_more(name: str) -> None:
    assert f"torch.{name}" not in KNOWN


@pytest.mark.parametrize(
    "name",
    [
        *("torch", "handle_torch_function", "has_torch_function", "boolean_dispatch", "_add_docstr", "relu_", "rrelu"),
        *("gumbel_softmax", "ctc_loss", "embedding_bag", "triplet_margin_with_distance_loss", "fractional_max_pool2d"),
        *("grouped_mm", "importlib", "warnings", "Callable", "__builtins__", "_VF"),
    ],
)
def test_names_in_functional_that_are_no_such_functions(name: str) -> None:
    assert f"torch.nn.functional.{name}" not in KNOWN


@pytest.mark.parametrize(
    "function",
    [
        *(operator.attrgetter, operator.call, operator.methodcaller, operator.setitem, operator.delitem, operator.iadd),
        *(
            operator.itemgetter,
            operator.iconcat,
            math.factorial,
            math.comb,
            math.perm,
            eval,
            exec,
            open,
            print,
            setattr,
        ),
        *(type, object, __import__, globals, vars, torch.load, torch.save, torch.nn.Linear, torch.autograd.grad, F),
    ],
)
def test_functions_of_python_that_do_more(function: object) -> None:
    assert function not in functions.names()


@pytest.mark.parametrize(
    "name", ["sort", "scatter", "nonzero", "unique", "cpu", "conj", "view", "cumprod", "index_add"]
)
def test_methods_that_compute_are_in_it(name: str) -> None:
    assert functions.method_refusal(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "numpy",
            "tolist",
            "item",
            "data_ptr",
            "const_data_ptr",
            "storage",
            "untyped_storage",
            "set_",
            "apply_",
            "map_",
        ),
        *("cuda", "new_empty", "new", "type", "resize", "as_strided", "backward", "register_hook", "share_memory_"),
        *("__class__", "__getattribute__", "__reduce_ex__", "requires_grad_", "record_stream", "pin_memory", "shape"),
        *(
            "bernoulli",
            "to_sparse",
            "values",
            "is_leaf",
            "retain_grad",
            "grad",
            "data",
            "module_load",
            "reinforce",
            "format",
            "index",
        ),
    ],
)
def test_methods_that_reach_beyond_the_tensor(name: str) -> None:
    assert functions.method_refusal(name) is not None


def test_attributes_are_views_and_facts() -> None:
    assert functions.attributes() == {
        *("H", "T", "imag", "mH", "mT", "real"),
        *("device", "dtype", "itemsize", "layout", "nbytes", "ndim", "shape"),
    }
