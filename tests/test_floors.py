"""The floors of the house: a module imports from its own folder and from floors below, and nothing imports in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down. A folder is named by its package; what stands on one floor does not import from beside it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("bench", "fxquant.__main__"),
    ("fxquant.cli",),
    ("fxquant.benchmark", "fxquant.training"),
    ("fxquant.measurement",),
    ("fxquant", "fxquant.distillation"),
    ("fxquant.diagnosis",),
    ("fxquant.precision", "fxquant.synthesis"),
    ("fxquant.api",),
    ("fxquant.torch_export", "fxquant.tracing"),
    ("fxquant.onnx_export",),
    ("fxquant.checkpoint", "fxquant.compiling"),
    ("fxquant.pipeline", "fxquant.reconstruction"),
    ("fxquant.spec", "fxquant.inspection", "fxquant.passes"),
    ("fxquant.calibration", "fxquant.dialect", "fxquant.lowering"),
    ("fxquant.graph",),
    ("fxquant.config",),
    ("fxquant.observers", "fxquant.ops"),
    ("fxquant.numerics",),
    ("fxquant.kernels",),
    ("fxquant.registration",),
    ("fxquant.data", "fxquant.digits", "fxquant.models"),
    ("fxquant.progress",),
    ("fxquant.distributed", "fxquant.files"),
    ("fxquant.pickles",),
    ("fxquant.errors", "fxquant.lazy", "fxquant.version"),
)
HEIGHT = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module of the library and of the benchmarks, by dotted name."""
    files = {(*f.relative_to(ROOT).parts,): f for top in ("bench", "fxquant") for f in (ROOT / top).rglob("*.py")}
    files |= {("fxquant", "passes", f.name): f for f in (ROOT / "passes").glob("*.py")}  # a symlink
    return {".".join(parts).removesuffix(".py").removesuffix(".__init__"): f for parts, f in sorted(files.items())}


def room_of(module: str) -> str:
    """Return the folder of a module, or the module itself where it stands at the top."""
    top, _, rest = module.partition(".")
    return top if top == "bench" or not rest else f"{top}.{rest.partition('.')[0]}"


@cache
def imports() -> dict[str, dict[str, int]]:
    """Return what each module imports of the project, wherever in its text, with the line."""
    return {module: dict(_imports(file)) for module, file in modules().items()}


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found = names & modules().keys()
            yield from ((name, node.lineno) for name in found)
            if names - found and node.module in modules():
                yield node.module, node.lineno


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in modules()} == HEIGHT.keys()


def test_at_most_ten_files_stand_at_the_top() -> None:
    assert len(list((ROOT / "fxquant").glob("*.py"))) <= 10


def test_no_import_runs_up() -> None:
    runs_up = [
        f"{modules()[module].relative_to(ROOT)}:{line}: {room_of(module)} imports {target} from the same floor or above"
        for module, targets in imports().items()
        for target, line in targets.items()
        if room_of(module) != room_of(target) and HEIGHT[room_of(target)] >= HEIGHT[room_of(module)]
    ]
    assert not runs_up, "\n".join(runs_up)


def test_only_the_command_itself_imports_the_command_line() -> None:
    found = {
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if room_of(target) == "fxquant.cli" and room_of(module) not in ("fxquant.cli", "fxquant.__main__")
    }
    assert not found


def test_no_pass_imports_a_pass_and_nothing_but_the_pipeline_the_export_and_their_page_does() -> None:
    allowed = {"fxquant.pipeline", "fxquant.tracing.export", "bench.pass_list"}
    found = {
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if target.startswith("fxquant.passes.") and module not in allowed
    }
    assert not found


def test_nothing_imports_the_command_line_of_a_package() -> None:
    found = {f"{m} imports {t}" for m, targets in imports().items() for t in targets if t.endswith(".__main__")}
    assert not found


def test_nothing_imports_in_a_circle() -> None:
    graph = {module: {target for target in targets if target != module} for module, targets in imports().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# The same thing on several floors: a quantiser as observer, operator and kernel; a command as what it runs.
_ALIKE = ("fxquant.cli", "fxquant.kernels", "fxquant.numerics", "fxquant.observers", "fxquant.ops", "bench")


def test_names_of_modules_are_said_once() -> None:
    said: dict[str, list[str]] = {}
    for module in modules():
        if not module.startswith(_ALIKE):
            said.setdefault(module.rpartition(".")[2], []).append(module)
    assert [found for found in said.values() if len(found) > 1] == []


def test_names_of_classes_are_said_once() -> None:
    said: dict[str, list[str]] = {}
    for module, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                said.setdefault(node.name, []).append(f"{module}.{node.name}")
    assert [found for found in said.values() if len(found) > 1] == []


@pytest.mark.parametrize("package", ["fxquant", "fxquant.distillation", "fxquant.synthesis", "fxquant.training"])
def test_no_public_name_hides_a_module(package: str) -> None:
    assert not {f"{package}.{name}" for name in import_module(package).__all__} & modules().keys() - {"fxquant.models"}
