"""
The driver of every pass: it owns iteration, insertion points, meta inheritance, dead code, lint and recompilation.

A rewriting pass is a tuple of rules, each a pattern and a small function ``(graph, match) -> Node | None`` that builds the
replacement and returns it, or None to decline before anything was changed. A pass that is no local rewrite changes the
graph in one function and hands it to `edit`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import FxquantError, PassError
from fxquant.graph.match import Call, Match, match
from fxquant.graph.meta import inherit_meta, provenance

Rule = tuple[Call, Callable[[fx.Graph, Match], "fx.Node | None"]]
Pass = Callable[[fx.GraphModule], PassResult]

MAX_SWEEPS = 100
# Whose frames say nothing of a model.
LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


def rewrite(gm: fx.GraphModule, rules: Sequence[Rule], name: str) -> PassResult:
    """
    Apply `rules` until none matches; `name` is the pass's, for errors.

    Raises `PassError` naming the pass, the node and its source line where a rule fails, builds nodes and then declines, or
    where the rules go on rewriting each other.
    """

    def sweep_until_stable(module: fx.GraphModule) -> bool:
        for sweep in range(MAX_SWEEPS):
            if not _sweep(module.graph, rules, name):
                return sweep > 0
            # Between sweeps, so that rules which ask how many readers a node has do not count dead ones.
            module.graph.eliminate_dead_code()
        raise PassError(name, "-", "", f"the rules still rewrite each other after {MAX_SWEEPS} sweeps")

    return edit(gm, sweep_until_stable)


def edit(gm: fx.GraphModule, change: Callable[[fx.GraphModule], bool]) -> PassResult:
    """Run `change`, which says whether it modified the graph, and leave the module consistent."""
    modified = change(gm)
    modified |= gm.graph.eliminate_dead_code()
    if modified:
        gm.graph.lint()
        gm.recompile()
    return PassResult(gm, modified)


@contextmanager
def blame(pass_name: str, node: fx.Node) -> Iterator[None]:
    """Turn an unexpected failure while `node` is being rewritten into a `PassError` that names it."""
    try:
        yield
    except FxquantError:
        raise
    except Exception as error:
        raise PassError(pass_name, node.name, location(node), f"{type(error).__name__}: {error}") from error


def location(node: fx.Node) -> str:
    """Return ``" (file:line, in function)"`` of the model's source that made `node`, as far as it is known."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ")]
    own = [frame for frame in frames if not frame.removeprefix('File "').startswith(LIBRARIES)]
    return f" ({(own or frames)[-1]})" if frames else ""


def _sweep(graph: fx.Graph, rules: Sequence[Rule], name: str) -> bool:
    changed = False
    for node in list(graph.nodes):
        if node._erased:
            continue
        for pattern, rule in rules:
            found = match(pattern, node)
            if found is not None and _apply(graph, rule, found, node, name):
                changed = True
                break
    return changed


def _apply(
    graph: fx.Graph, rule: Callable[[fx.Graph, Match], fx.Node | None], found: Match, node: fx.Node, name: str
) -> bool:
    before = node.prev
    with blame(name, node), graph.inserting_before(node):
        replacement = rule(graph, found)
        if replacement is None:
            if node.prev is not before:
                raise RuntimeError("the rule built nodes and then declined")
            return False
    _adopt_new_nodes(node, before, replacement)
    node.replace_all_uses_with(replacement)
    graph.erase_node(node)
    return True


def _adopt_new_nodes(node: fx.Node, before: fx.Node, replacement: fx.Node) -> None:
    """Nodes a rule made stand between `before` and `node`: give them its origin, and its value to the replacement alone."""
    new = node.prev
    while new is not before:
        if new is replacement:
            inherit_meta(new, node)
        provenance(new, node)
        new = new.prev
