"""Files of torch.save as data: what they name is not imported and not called, whatever their opcodes say."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.serialization import get_safe_globals

from fxquant.pickles import Called, foreign_names, load_inert
from tests.support.hostile_pickles import hostile_values, text, write_zip

PROGRAMS = sorted(hostile_values(Path("mark")))


class Items(dict[str, Any]):
    """A subclass of dict, as configs are."""


def save(folder: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, folder / "a.pth", _use_new_zipfile_serialization=zipped)
    return folder / "a.pth"


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_become_what_the_file_says_of_them(tmp_path: Path, zipped: bool) -> None:
    items = Items(a=1)
    items.note = torch.ones(2)  # type: ignore[attr-defined]
    value = {
        "items": items,
        "object": SimpleNamespace(lr=0.5),
        "default": defaultdict(list),
        "partial": partial(nn.functional.gelu, approximate="tanh"),
        "function": nn.functional.gelu,
        "weights": OrderedDict(w=torch.arange(3)),
    }
    found = load_inert(save(tmp_path, value, zipped))
    assert found["items"] == {"a": 1}
    assert torch.equal(vars(found["items"])["note"], torch.ones(2))
    assert all(isinstance(found[name], Called) for name in ("object", "default", "partial"))
    assert torch.equal(found["weights"]["w"], torch.arange(3))
    assert not any("fxquant" in str(entry) for entry in get_safe_globals())


@pytest.mark.parametrize("zipped", [True, False])
def test_names_of_a_file_are_listed(tmp_path: Path, zipped: bool) -> None:
    names = foreign_names(save(tmp_path, {"a": Items(), "b": torch.ones(1)}, zipped))
    assert f"{__name__}.Items" in names
    assert ("torch._utils._rebuild_tensor_v2" in names) != zipped
    assert foreign_names(write_zip(tmp_path / "b.pth", b"\xff")) == []


def test_classes_that_are_not_installed_are_not_needed(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "a.pth", b"cnowhere.at_all\nThing\n)\x81}" + text("x") + b"K\x05sb")
    assert vars(load_inert(file)) == {"x": 5}
    assert "nowhere" not in sys.modules


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_of_a_hostile_file_runs(tmp_path: Path, program: str) -> None:
    mark = tmp_path / "mark"
    code = hostile_values(mark)[program]
    kept = vars(torch.Tensor).copy(), torch._utils._rebuild_tensor.__code__
    for around in (code, b"}" + text("a") + code + b"s", b"]" + code + b"a"):
        try:
            found: Any = load_inert(write_zip(tmp_path / "a.pth", around))
        except Exception:  # whatever torch says of it
            found = None
        assert not mark.exists()
        while isinstance(found, dict | list) and found:
            found = found[0] if isinstance(found, list) else next(iter(found.values()))
        assert found is None or found == {} or isinstance(found, Called)
    assert (vars(torch.Tensor).copy(), torch._utils._rebuild_tensor.__code__) == kept


def test_memory_is_not_taken_for_numbers_in_a_file(tmp_path: Path) -> None:
    assert load_inert(write_zip(tmp_path / "a.pth", b"]r\xff\xff\xff\xff")) == []  # a memo of 2 ** 32 entries
    assert len(load_inert(write_zip(tmp_path / "a.pth", b")" + b"\x85" * 100_000))) == 1


def test_modules_of_the_system_are_refused_by_name(tmp_path: Path) -> None:
    program = hostile_values(tmp_path / "mark")["posix"]
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system whose module posix is blocked"):
        load_inert(write_zip(tmp_path / "a.pth", program))


def test_threads_do_not_take_names_from_each_other(tmp_path: Path) -> None:
    files = []
    for index in range(8):
        (tmp_path / str(index)).mkdir()
        files.append(save(tmp_path / str(index), Items(index=index)))
    with ThreadPoolExecutor(4) as pool:
        assert [found["index"] for found in pool.map(load_inert, files * 3)] == list(range(8)) * 3
