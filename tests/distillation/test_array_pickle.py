"""Files of torch.save with arrays: arrays come back, code does not run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.serialization import get_safe_globals

from fxquant.distillation.array_pickle import load_arrays

FORMATS = {"zip": True, "legacy": False}


class Command:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path, function: Any = os.system) -> None:
        self.function, self.argument = function, f"touch {file}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, (self.argument,)


def save(value: Any, file: Path, zipped: bool) -> Path:
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
        np.array([True, False]),
        np.arange(6, dtype=">i4")[::2],
        np.zeros((0, 4), np.float16),
        np.array(3, np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back(array: Any, zipped: bool, tmp_path: Path) -> None:
    loaded = load_arrays(save([array, torch.ones(2), [True]], tmp_path / "a.tar", zipped))
    assert loaded[0].dtype == array.dtype
    assert np.array_equal(loaded[0], array)
    assert torch.equal(loaded[1], torch.ones(2))
    assert loaded[2] == [True]
    assert not any("numpy" in str(name) for name in get_safe_globals())


def test_both_names_of_numpys_module_are_known(tmp_path: Path) -> None:
    file = save([np.ones(3)], tmp_path / "a.tar", False)
    data = file.read_bytes()
    names = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert any(name in data for name in names)
    for other in names:
        for name in names:
            data = data.replace(name, other)
        file.write_bytes(data)
        assert load_arrays(file)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)
def test_no_code_is_run(zipped: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    objects = np.empty(1, object)
    objects[0] = Command(touched)
    hidden = [np.ones(1), np.ones(1), Command(touched, eval)]
    for value in (Command(touched), objects, hidden, [Command(touched, np.load)], Command(touched, torch.load)):
        with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
            load_arrays(save(value, tmp_path / "a.tar", zipped))
    (tmp_path / "a.tar").write_bytes(pickle.dumps(Command(touched), protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        load_arrays(tmp_path / "a.tar")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([None, 1], object), "objects|type 'O8'"),
        (np.zeros(2, [("a", "f4")]), "one of records"),
        (np.array(["text"]), "type 'U4'"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(array: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, pickle.UnpicklingError), match=message):
        load_arrays(save([array], tmp_path / "a.tar", True))


def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    file = save([np.arange(7, dtype=np.uint8)], tmp_path / "a.tar", False)
    # A shape is a tuple of one-byte numbers here: K, 7, and the opcode of a tuple of one.
    data = file.read_bytes()
    assert data.count(b"K\x07\x85") == 1
    file.write_bytes(data.replace(b"K\x07\x85", b"K\xff\x85"))
    with pytest.raises(ValueError, match="cannot reshape"):
        load_arrays(file)
