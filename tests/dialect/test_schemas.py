"""The rule over torch's schemas: what only computes a value is in, and each refused operator of this torch is listed."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._ops import OpOverload, OpOverloadPacket

from fxquant.dialect import schemas
from fxquant.dialect.aten_table import RESIZES, ROWS

REFUSED = Path(__file__).parents[1] / "data" / "refused_operators.json"
ATEN = sorted({s.name.removeprefix("aten::") for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")})


def refused_operators() -> dict[str, list[str]]:
    """Return the operators of ATen that give a new value and are refused, by the reason."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in ATEN:
        reason = schemas.packet_refusal(name)
        if reason not in (None, schemas.NO_OPERATOR, "it writes to an argument"):
            found[str(reason)].append(name)
    return dict(sorted(found.items()))


def test_the_refused_operators_are_those_listed() -> None:
    listed = json.loads(REFUSED.read_text())
    found = refused_operators()
    if torch.__version__.startswith(listed["torch"]):
        assert found == listed["operators"]
    names = {name for group in listed["operators"].values() for name in group if hasattr(torch.ops.aten, name)}
    assert all(schemas.packet_refusal(name) is not None for name in names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aten.from_file.default", "it reaches files"),
        ("aten.empty.memory_format", "it gives out memory that nobody wrote"),
        ("aten.new_empty.default", "it gives out memory that nobody wrote"),
        ("aten.as_strided.default", "it reads a tensor's memory in strides of its own"),
        ("aten.set.source_Storage", "it gives out memory that nobody wrote"),
        ("aten.add_.Tensor", "it writes to an argument"),
        ("aten.add.out", "it writes to an argument"),
        ("aten.record_stream.default", "it writes to an argument"),
        ("aten.randn.default", "it draws random numbers"),
        ("aten.bernoulli.default", "it draws random numbers"),
        ("aten.embedding_dense_backward.default", "it belongs to automatic differentiation"),
        ("aten.ctc_loss.IntList", "it trusts numbers or shapes that it is given"),
        ("aten.item.default", "it gives a number that depends on a tensor's values"),
        ("aten._unsafe_index.Tensor", "it is private to torch"),
        ("aten.add.int", "it is an operator of TorchScript"),
        ("aten.cudnn_convolution.default", "it belongs to one backend"),
    ],
)
def test_refused_for_their_reason(name: str, reason: str) -> None:
    _, packet, overload = name.split(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    assert schemas.operator_refusal(operator) == reason
    assert schemas.operator_named(name) is None


@pytest.mark.parametrize("name", ["save", "warn", "tensor", "cuda", "backward", "format", "join", "wait", "no_such"])
def test_operators_of_torchscript_are_none(name: str) -> None:
    assert schemas.packet_refusal(name) == schemas.NO_OPERATOR


@pytest.mark.parametrize("name", [*ROWS, *RESIZES])
def test_what_export_gives_is_in(name: str) -> None:
    overload = getattr(getattr(torch.ops.aten, name.split(".")[0], None), name.split(".")[1], None)
    if overload is not None:
        writes = name.partition(".")[0].endswith("_")
        assert (schemas.operator_named(f"aten.{name}") is overload) is not writes


def test_names_lead_to_operators_and_back() -> None:
    for name in ("aten.gelu.default", "aten.gelu", "aten.max.dim", "aten.lstm.input"):
        operator = schemas.operator_named(name)
        assert operator is not None
        assert schemas.operator_name(operator) == name
    assert isinstance(schemas.operator_named("aten.gelu"), OpOverloadPacket)
    assert isinstance(schemas.operator_named("aten.max.dim"), OpOverload)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "aten",
            "aten.",
            "aten.add.",
            "aten.__class__",
            "aten.add.__call__",
            "aten.add.overloads",
            "aten.add.default.x",
        ),
        *("aten._dir", "aten.name", "prim.device", "c10d.allreduce_.default", "fxquant.quantize.default"),
        *("profiler._record_function_enter", "load_library", "torchvision.__name__", "torchvision.no_such_operator"),
    ],
)
def test_names_that_lead_nowhere(name: str) -> None:
    assert schemas.operator_named(name) is None


def test_operators_that_others_register_are_refused_by_name() -> None:
    with torch.library._scoped_library("fxquant_test_library", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        operator: Any = torch.ops.fxquant_test_library.double
        for each in (operator, operator.default):
            assert "only operators of aten and torchvision" in str(schemas.operator_refusal(each))
        assert schemas.operator_named("fxquant_test_library.double.default") is None


def test_operators_of_torchvision_follow_the_same_rule() -> None:
    with torch.library._scoped_library("torchvision", "FRAGMENT") as library:
        library.define("fxq_ok(Tensor boxes, float threshold) -> Tensor")
        library.define("fxq_in_place(Tensor(a!) boxes) -> Tensor")
        library.define("_fxq_private(Tensor boxes) -> Tensor")
        library.impl("fxq_ok", lambda boxes, threshold: boxes, "CPU")
        library.impl("fxq_in_place", lambda boxes: boxes, "CPU")
        library.impl("_fxq_private", lambda boxes: boxes, "CPU")
        assert schemas.operator_named("torchvision.fxq_ok.default") is torch.ops.torchvision.fxq_ok.default
        assert schemas.operator_named("torchvision.fxq_in_place.default") is None
        assert schemas.operator_named("torchvision._fxq_private.default") is None
