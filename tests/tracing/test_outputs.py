"""Outputs keep their type at every stage, whichever way a model was traced."""

from __future__ import annotations

import collections
import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import UnsupportedGraphError
from fxquant.ops.make_output import output_leaves


@dataclasses.dataclass
class Output:
    logits: Tensor
    states: Any = None
    count: int = 3


class Named(NamedTuple):
    one: Tensor
    two: Any


@dataclasses.dataclass
class Keyed(collections.OrderedDict[str, Any]):
    """As the outputs of transformers are."""

    loss: Tensor | None = None
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": lambda y: Output(y, (y + 1, [y * 2])),
    "named tuple": lambda y: Named(y, {"a": y + 1}),
    "ordered": lambda y: collections.OrderedDict([("0", y), ("blocks.1", y + 1)]),
    "keyed": lambda y: Keyed(logits=y),
    "nested": lambda y: [Output(y, Named(y, None)), (y,)],
    "plain": lambda y: {"a": y, "b": (y + 1, [y])},
}


class Returning(nn.Module):
    def __init__(self, returns: Callable[[Tensor], Any], exported: bool = False) -> None:
        super().__init__()
        self.fc, self.returns, self.exported = nn.Linear(8, 6), returns, exported

    def forward(self, x: Tensor) -> Any:
        """Return what `returns` makes of ``(B, 6)``."""
        if self.exported and int(x.shape[1]) != x.shape[1]:  # which symbolic tracing does not follow
            return None
        return self.returns(self.fc(x))


def assert_alike(found: Any, wanted: Any, exactly: bool = True) -> None:
    """Check classes and structure, and the tensors where they are to be equal."""
    assert type(found) is type(wanted)
    one, other = list(output_leaves(found)), list(output_leaves(wanted))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        if isinstance(b, Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0 if exactly else 0.1)
        else:
            assert a == b


X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", RETURNS)
def test_an_output_keeps_its_type(name: str, exported: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Returning(RETURNS[name], exported).eval()
    wanted = model(X)
    traced = fxquant.trace(model, X)
    assert_alike(traced(X), wanted)
    prepared = fxquant.calibrate(fxquant.prepare(traced, fxquant.recipe("minmax")), [X, -X], progress=False)
    assert_alike(prepared(X), wanted)
    int8 = fxquant.convert(prepared)
    found = int8(X)
    assert_alike(found, wanted, exactly=False)
    for copied in (copy.deepcopy(int8), pickle.loads(pickle.dumps(int8))):
        assert_alike(copied(X), found)
    for gm in (traced, prepared, int8):
        fxquant.save(gm, tmp_path / "model.safetensors")
        loaded = fxquant.load(tmp_path / "model.safetensors")
        wanted_leaves, leaves = list(output_leaves(gm(X))), list(output_leaves(loaded(X)))
        assert all(
            torch.equal(a, b) if isinstance(b, Tensor) else a == b for a, b in zip(leaves, wanted_leaves, strict=True)
        )
        fxquant.save(loaded, tmp_path / "again.safetensors")  # what stands for the class is saved as the class was
        assert str(type(fxquant.load(tmp_path / "again.safetensors")(X)).__name__) == type(wanted).__name__


def test_a_loaded_output_is_read_as_before(tmp_path: Path) -> None:
    fxquant.save(fxquant.trace(Returning(RETURNS["keyed"]).eval()), tmp_path / "model.safetensors")
    found = fxquant.load(tmp_path / "model.safetensors")(X)
    assert found.logits is found["logits"] is found[0]
    assert found.loss is None
    assert list(found) == ["logits"]


def test_compiled_models_keep_it_and_take_inputs_by_name() -> None:
    model = Returning(RETURNS["nested"]).eval()
    int8 = fxquant.quantize(model, [X])
    compiled = fxquant.compile(int8)
    assert_alike(compiled(x=X), int8(X), exactly=False)
    assert_alike(compiled(X), int8(X), exactly=False)


def test_a_search_reads_the_tensors_of_an_output() -> None:
    model = Returning(RETURNS["dataclass"]).eval()
    gm = fxquant.quantize(model, [X, -X], "ptq4vit", metric="hessian", gradient="sampled_output")
    assert_alike(gm(X), model(X), exactly=False)


@pytest.mark.parametrize("name", RETURNS)
def test_outputs_computed_in_another_dtype_are_cast_back(name: str) -> None:
    model = Returning(RETURNS[name]).eval()
    gm = fxquant.quantize(model, [X], "minmax", float_dtype=torch.bfloat16)
    found = gm(X)
    assert type(found) is type(model(X))
    assert {leaf.dtype for leaf in output_leaves(found) if isinstance(leaf, Tensor)} == {torch.float32}


def test_an_output_that_no_graph_can_make_is_refused() -> None:
    class Opaque:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    with pytest.raises(UnsupportedGraphError):
        fxquant.trace(Returning(Opaque).eval(), X)
