"""
The driver of every pass: it owns iteration, insertion points, meta inheritance, dead code, lint and recompilation.

A rewriting pass is a tuple of rules, each a pattern and a small function ``(graph, match) -> Node | None`` that builds the
replacement and returns it, or None to decline before anything was changed. A pass that is no local rewrite changes the
graph in one function and hands it to `edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import FxquantError, PassError
from fxquant.match import Call, Match, match

Rule = tuple[Call, Callable[[fx.Graph, Match], "fx.Node | None"]]
Pass = Callable[[fx.GraphModule], PassResult]

MAX_SWEEPS = 100
_INHERITED = ("val", "stack_trace", "nn_module_stack", "fxquant")


def rewrite(gm: fx.GraphModule, rules: Sequence[Rule], name: str) -> PassResult:
    """Apply `rules` until none matches; `name` is the pass's, for errors."""

    def sweep_until_stable(module: fx.GraphModule) -> bool:
        for sweep in range(MAX_SWEEPS):
            if not _sweep(module.graph, rules, name):
                return sweep > 0
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


def location(node: fx.Node) -> str:
    """Return ``" (file:line, in module)"`` of the source that made `node`, as far as it is known."""
    trace = (node.stack_trace or "").strip().splitlines()
    where = next((line.strip() for line in reversed(trace) if line.strip().startswith("File ")), "")
    return f" ({where})" if where else ""


def inherit_meta(new: fx.Node, old: fx.Node) -> None:
    """Give `new` what `old` knew about its value and origin, where it has nothing of its own."""
    for key in _INHERITED:
        if key in old.meta:
            new.meta.setdefault(key, old.meta[key])


def _sweep(graph: fx.Graph, rules: Sequence[Rule], name: str) -> bool:
    changed = False
    known = set(graph.nodes)
    for node in list(graph.nodes):
        if node not in known or node._erased:
            continue
        for pattern, rule in rules:
            found = match(pattern, node)
            if found is not None and _apply(graph, rule, found, node, name, known):
                changed = True
                break
    return changed


def _apply(
    graph: fx.Graph,
    rule: Callable[[fx.Graph, Match], fx.Node | None],
    found: Match,
    node: fx.Node,
    name: str,
    known: set[fx.Node],
) -> bool:
    try:
        with graph.inserting_before(node):
            replacement = rule(graph, found)
    except FxquantError:
        raise
    except Exception as error:
        raise PassError(name, node.name, location(node), f"{type(error).__name__}: {error}") from error
    if replacement is None:
        return False
    _adopt_new_nodes(node, replacement, known)
    node.replace_all_uses_with(replacement)
    graph.erase_node(node)
    return True


def _adopt_new_nodes(node: fx.Node, replacement: fx.Node, known: set[fx.Node]) -> None:
    """Nodes a rule made stand just before `node`: give them its origin, and its value to the replacement alone."""
    new = node.prev
    while new not in known and new.op != "root":
        for key in ("stack_trace", "nn_module_stack"):
            if key in node.meta:
                new.meta.setdefault(key, node.meta[key])
        known.add(new)
        new = new.prev
    if replacement.op != "placeholder":
        inherit_meta(replacement, node)
