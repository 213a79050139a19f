"""`fxquant.graph.meta` reads and writes what is known of nodes and graphs, and no other module spells its keys."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from fxquant.config.operands import Role, TensorSpec
from fxquant.graph import meta
from fxquant.graph.meta import Operand, Product, Record
from fxquant.graph.stages import Stage, set_stage, stage_of

ROOT = Path(__file__).parents[2]
KEYS = {"val", "dtype", "stage", "trainable", "card", "fxquant", "nn_module_stack", "stack_trace"}
OWNER = "fxquant/graph/meta.py"
RECORD = Record(Product.LINEAR, "fc", "fc", (Operand(Role.WEIGHT, "fc.weight", TensorSpec()),))
STACK = {"fc": ("fc", nn.Linear)}


@pytest.fixture
def nodes() -> tuple[fx.Node, fx.Node]:
    graph = fx.Graph()
    return graph.placeholder("x"), graph.placeholder("y")


def known(node: fx.Node) -> fx.Node:
    """Write everything that may be known of a node."""
    meta.set_record(node, RECORD)
    meta.set_value(node, torch.empty(2, 3, device="meta"))
    meta.set_module_stack(node, STACK)
    node.meta["stack_trace"] = "line"
    return node


def test_the_value_of_a_node_is_a_tensor(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, _ = nodes
    assert meta.value_of(x) is None
    value = torch.empty(2, 3, device="meta")
    meta.set_value(x, value)
    assert meta.value_of(x) is meta.any_value_of(x) is meta.known_value(x) is value
    meta.set_value(x, 3)
    assert (meta.value_of(x), meta.any_value_of(x)) == (None, 3)
    meta.drop_value(x)
    assert not meta.has_value(x)


def test_a_value_may_be_known_to_be_none(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    meta.copy_value(y, x)
    assert not meta.has_value(y)
    meta.set_value(x, None)
    meta.copy_value(y, x)
    assert meta.has_value(x)
    assert meta.has_value(y)
    assert meta.any_value_of(y) is None


@pytest.mark.parametrize("value", [None, 3, "x", torch.zeros(2)])
def test_what_is_no_node_has_no_value(value: object) -> None:
    assert meta.value_of(value) is None
    with pytest.raises(RuntimeError, match="is unknown"):
        meta.known_value(value)


def test_provenance_keeps_what_a_node_has(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    y.meta["stack_trace"] = "its own"
    meta.provenance(y, known(x))
    assert y.meta == {"stack_trace": "its own", "nn_module_stack": STACK}
    meta.take_provenance(y, x)
    assert y.meta == {"stack_trace": "line", "nn_module_stack": STACK}


def test_keeping_provenance_forgets_the_rest(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    meta.keep_provenance(known(x))
    assert x.meta == {"stack_trace": "line", "nn_module_stack": STACK}
    y.meta["nn_module_stack"] = None
    meta.keep_provenance(y)
    assert y.meta == {}


def test_what_is_copied_has_no_record(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    meta.copy_knowledge(y, known(x))
    assert meta.record_of(y) is None
    assert meta.value_of(y) is meta.value_of(x)
    assert meta.module_path(y) == "fc"


def test_what_is_inherited_has_the_record(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    meta.inherit_meta(y, known(x))
    assert y.meta == x.meta


def test_a_dropped_record_comes_back_and_a_cleared_one_does_not(nodes: tuple[fx.Node, fx.Node]) -> None:
    x, y = nodes
    meta.set_record(y, RECORD)
    meta.drop_record(y)
    assert meta.record_of(y) is None
    meta.inherit_meta(y, known(x))
    assert meta.record_of(y) == RECORD
    meta.clear_record(y)
    meta.inherit_meta(y, x)
    assert meta.record_of(y) is None


def test_the_root_has_no_path(nodes: tuple[fx.Node, fx.Node]) -> None:
    assert meta.module_path(nodes[0]) == ""
    assert meta.module_stack(nodes[0]) == {}


def test_what_is_known_of_a_graph() -> None:
    gm = fx.GraphModule(nn.Module(), fx.Graph())
    assert (meta.model_dtype(gm), meta.is_trainable(gm), stage_of(gm)) == (torch.float32, True, None)
    assert meta.written_dtype(gm) is None
    meta.set_model_dtype(gm, torch.bfloat16)
    meta.refuse_training(gm)
    set_stage(gm, Stage.LOWERED)
    assert (meta.model_dtype(gm), meta.is_trainable(gm), stage_of(gm)) == (torch.bfloat16, False, Stage.LOWERED)
    meta.write_stage(gm, "another library's")
    assert stage_of(gm) is None


def spelled(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that reach into a ``meta`` by one of `KEYS` or by a computed key, or that name an origin's key."""
    constants = {
        target.id: each.value.value
        for each in ast.walk(tree)
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ("nn_module_stack", "stack_trace"):
            yield node.lineno
        for key in keys_of(node):
            name = key.value if isinstance(key, ast.Constant) else None
            name = constants.get(key.id) if isinstance(key, ast.Name) else name
            if name is None or name in KEYS:
                yield key.lineno


def keys_of(node: ast.AST) -> list[ast.expr]:
    """Return the keys by which `node` reads or writes ``x.meta``, such as ``x.meta[key]`` or ``x.meta |= {key: value}``."""
    if isinstance(node, ast.Subscript) and is_meta(node.value):
        return [node.slice]
    if isinstance(node, ast.Compare) and is_meta(node.comparators[0]):
        return [node.left]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_meta(node.func.value):
        named: list[ast.expr] = [ast.Constant(k.arg, lineno=k.lineno) for k in node.keywords if k.arg]
        return [*keys_in(node.args[0]), *named] if node.args else named
    written = isinstance(node, ast.Assign) and is_meta(node.targets[0])
    if written or (isinstance(node, ast.AugAssign) and is_meta(node.target)):
        return keys_in(node.value) if isinstance(node.value, ast.Dict) else []  # type: ignore[attr-defined]
    return []


def keys_in(value: ast.expr) -> list[ast.expr]:
    """Return the keys of a dict that is spelled out; any other value may be a key itself."""
    return [key for key in value.keys if key is not None] if isinstance(value, ast.Dict) else [value]


def is_meta(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "meta"


@pytest.mark.parametrize(
    "line",
    [
        'x.meta["val"]',
        'x.meta.get("dtype", 1)',
        'x.meta.pop("fxquant", None)',
        '"stage" in gm.meta',
        'KEY = "stage"\ngm.meta[KEY]',
        "for key in keys: x.meta[key]",
        'for key in ("stack_trace", "other"): pass',
        'x.graph.owning_module.meta.setdefault("trainable", False)',
        'x.meta |= {"is_wrapped": True, "val": 1}',
        'x.meta = {"val": 1}',
        'x.meta.update({"dtype": 1})',
        "x.meta.update(stage=1)",
    ],
)
def test_a_spelled_key_is_found(line: str) -> None:
    assert list(spelled(ast.parse(line)))


@pytest.mark.parametrize("line", ['x.meta["is_wrapped"]', 'given["dtype"]', "y.meta = dict(x.meta)", 'data.get("val")'])
def test_nothing_else_is(line: str) -> None:
    assert not list(spelled(ast.parse(line)))


def test_no_other_module_spells_a_key() -> None:
    files = [f for folder in ("bench", "fxquant", "passes") for f in (ROOT / folder).rglob("*.py")]
    found = [
        f"{name}:{line}"
        for file in files
        if (name := str(file.relative_to(ROOT))) != OWNER
        for line in spelled(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert len(files) > 200
    assert not found, "\n".join(found)
