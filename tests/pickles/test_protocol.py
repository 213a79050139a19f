"""Files of newer pickle protocols hold what files of protocol 2 do, and run as little."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fxquant.distillation.array_pickle import load_arrays
from fxquant.pickles import foreign_names, load_inert, read_as_protocol_2
from fxquant.pickles.protocol import is_newer, to_protocol_2


class Trap:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.mark),)


def save(folder: Path, value: Any, protocol: int, zipped: bool = True) -> Path:
    torch.save(value, folder / "a.tar", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return folder / "a.tar"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_tensors_of_any_protocol(tmp_path: Path, protocol: int, zipped: bool) -> None:
    arrays = [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(3) > 1,
        np.asfortranarray(np.arange(30.0).reshape(3, 2, 5)),
        np.zeros((0, 4), np.int64),
        np.arange(300, dtype=">i2"),
    ]
    tensors = [torch.arange(6.0).reshape(2, 3).t(), torch.tensor([True, False])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_arrays(save(tmp_path, [*arrays, *tensors], protocol, zipped))
    for one, other in zip(found[: len(arrays)], arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert all(torch.equal(one, other) for one, other in zip(found[len(arrays) :], tensors, strict=True))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_weights_too(tmp_path: Path, protocol: int) -> None:
    weights = {"a.weight": torch.ones(2), "names": ["a", "a", "ä"], "big": 2**70, "other": {"a.weight": None}}
    file = save(tmp_path, weights, protocol)
    assert is_newer(file) == (protocol > 2)
    found = load_inert(file)
    assert torch.equal(found.pop("a.weight"), weights.pop("a.weight"))  # type: ignore[arg-type]
    assert found == weights


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_no_code_runs(tmp_path: Path, protocol: int, zipped: bool) -> None:
    file = save(tmp_path, [Trap(str(tmp_path / "sprung"))], protocol, zipped)
    with pytest.raises(pickle.UnpicklingError):
        load_arrays(file)
    assert any(name.startswith("pathlib") for name in foreign_names(file))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_values_stay_what_they_are(protocol: int) -> None:
    shared = ["x", "y" * 300]
    value = [
        1,
        -5,
        2**40,
        2.5,
        None,
        True,
        (),
        (1,),
        {"a": shared, "b": shared, "x": "y"},
        b"\x00\xff" * 200,
        "ö\n",
        *range(300),
    ]
    content = pickle.dumps(value, protocol)
    made, end = to_protocol_2(content + b"more")
    assert end == len(content)
    found = pickle.loads(made)
    assert found == value
    assert found[8]["a"] is found[8]["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({1, 2}, 4), "it holds a EMPTY_SET"),
        (b"\x80\x04]\x8c\x02os\x93.", "makes up the name"),
        (b"\x80\x04\x8c\x01o\x8c\x01s\x86\x8c\x06system\x93.", "makes up the name"),
        (b"\x80\x04\x8c\x04o\nos\x8c\x06system\x93.", "makes up the name"),
    ],
)
def test_what_has_no_form_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        to_protocol_2(content)


def test_old_files_are_left_alone(tmp_path: Path) -> None:
    file = save(tmp_path, [torch.ones(2)], 2)
    assert read_as_protocol_2(file).read() == file.read_bytes()
    (tmp_path / "b").write_bytes(b"")
    assert read_as_protocol_2(tmp_path / "b").read() == b""
    (tmp_path / "b").write_bytes(file.read_bytes()[:200])
    assert not is_newer(tmp_path / "b")
    assert isinstance(read_as_protocol_2(file), io.BytesIO)
