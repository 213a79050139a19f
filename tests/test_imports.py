"""What importing costs: fxquant alone nothing, its graphs no timm, and help no torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import fxquant
from tests.support.tiers import keep_quick


def imported_by(code: str) -> set[str]:
    """Return the names of the modules that a new process has after `code`."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, file=sys.__stdout__)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


def test_fxquant_alone_imports_nothing_large() -> None:
    found = imported_by("import fxquant")
    assert {name for name in found if name.startswith("fxquant")} == {
        "fxquant",
        "fxquant.lazy",
        "fxquant.registration",
        "fxquant.version",
    }
    assert not found & {"torch", "numpy", "timm", "torchvision", "sklearn"}


def test_the_verbs_import_no_compiler_and_a_model_of_ones_own_needs_neither_timm_nor_torchvision_nor_sklearn() -> None:
    code = (
        "import sys\n"
        "import fxquant.api, fxquant.checkpoint\n"
        "assert not set(sys.modules) & {'torch._dynamo', 'torch._inductor', 'timm'}\n"
        "import fxquant, torch\n"
        "model, x = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()).eval(), torch.randn(4, 8)\n"
        "fxquant.report(fxquant.quantize(model, [x]))"
    )
    assert not imported_by(code) & {"timm", "torchvision", "sklearn", "matplotlib"}


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import contextlib, io\n"
        "from fxquant.cli.main import COMMANDS, main\n"
        "lines = ['--help'], ['--version'], [], ['nonsense'], ['completion', 'bash'], *([c, '--help'] for c in COMMANDS)\n"
        "for line in lines:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), "
        "contextlib.redirect_stderr(io.StringIO()):\n"
        "        main(line)"
    )
    assert not imported_by(code) & {"torch", "numpy", "timm"}


ORDERS = [
    "import fxquant, timm",
    "import timm, fxquant",
    "import fxquant, timm.models",
    "import fxquant, importlib.util\nassert importlib.util.find_spec('timm')\nimport timm",
]


@pytest.mark.parametrize("order", keep_quick(ORDERS, ORDERS[1], ORDERS[3]))
def test_timm_knows_the_models_whichever_is_imported_first(order: str) -> None:
    code = f"{order}\nassert timm.is_model('itpn_base') and timm.is_model('sret_t')\nassert timm.__spec__.loader.name == 'timm'"
    assert "fxquant.models" in imported_by(code)


def test_submodules_are_attributes_as_ever() -> None:
    assert fxquant.ops is import_module("fxquant.ops")
    assert fxquant.kernels is import_module("fxquant.kernels")


def test_only_public_names_are_listed() -> None:
    assert fxquant.kernels  # what was fetched is not listed for it
    assert set(dir(fxquant)) == {*fxquant.__all__, "__version__"}


@pytest.mark.parametrize("package", ["data", "distillation", "synthesis", "training"])
def test_packages_give_their_public_names(package: str) -> None:
    room = import_module(f"fxquant.{package}")
    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match=f"module 'fxquant.{package}' has no attribute 'nonsense'"):
        room.nonsense  # noqa: B018


def test_a_misspelt_name_is_an_attribute_error() -> None:
    for name in ("quantise", "_private", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'fxquant' has no attribute '{name}'"):
            getattr(fxquant, name)
