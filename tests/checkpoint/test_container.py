"""The file: it is whole or it is not there, and a damaged one is told from a good one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fxquant
from fxquant import CheckpointError
from fxquant.benchmark import memory
from fxquant.checkpoint import container
from tests.support import checkpoints
from tests.support.checkpoints import assert_same, at_stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    fxquant.save(at_stage("conv", "int8", w_bits=4), target)
    return target


def test_it_is_a_safetensors_file(path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    assert "head.weight_int8" in tensors
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_permissions_are_those_of_any_new_file(path: Path) -> None:
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_text_paths_and_links(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    fxquant.save(at_stage("conv", "float"), str(link))
    assert link.is_symlink()
    assert_same(at_stage("conv", "float"), fxquant.load(str(path)))


@pytest.mark.parametrize("step", ["save_file", "os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_old_file(step: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"fxquant.checkpoint.container.{step}", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        fxquant.save(at_stage("conv", "float"), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interrupted_save_leaves_no_temporary_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fxquant.checkpoint.container.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fxquant.save(at_stage("conv", "float"), path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "model.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            fxquant.save(at_stage("conv", "float"), place)
    assert not list(tmp_path.iterdir())


def test_things_that_are_no_checkpoint(tmp_path: Path) -> None:
    for place, found in ((tmp_path, "a directory"), (tmp_path / "missing", "nothing there")):
        with pytest.raises(CheckpointError, match=f"{place.name}.*{found}"):
            fxquant.load(place)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(CheckpointError, match="something else"):
        fxquant.load(fifo)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, weights)
    with pytest.raises(CheckpointError, match=r"not written by fxquant\.save"):
        fxquant.load(weights)
    for content in (b"", b"not a checkpoint", b"\xff" * 64, b"PK\x03\x04" + bytes(100)):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a safetensors file"):
            fxquant.load(weights)
    torch.save({"w": torch.zeros(2)}, weights)
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        fxquant.load(weights)


@pytest.mark.parametrize("device", ["nonsense", "cuda:x"])
def test_the_device_is_the_callers_mistake(device: str, path: Path) -> None:
    with pytest.raises(fxquant.InputError, match="cannot be used"):
        fxquant.load(path, device=device)


def write_ones(path: Path, *tensors: str) -> Path:
    """Write tensors of four times the size from which they have mappings of their own."""
    container.write(str(path), {}, {name: torch.ones(4 * container._LARGE, dtype=torch.int8) for name in tensors})
    return path


def while_it_is_read(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let `change` happen as soon as the first tensor was read."""

    def owning(value: torch.Tensor, owning: Any = container._owning) -> torch.Tensor:
        if not done:
            done.append(change())
        read: torch.Tensor = owning(value)
        return read

    done: list[object] = []
    monkeypatch.setattr(container, "_owning", owning)


def test_a_file_that_another_takes_the_place_of_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = write_ones(tmp_path / "one.safetensors", "a", "b"), write_ones(tmp_path / "other.safetensors", "c")
    while_it_is_read(monkeypatch, lambda: os.replace(other, path))
    _, tensors = container.read(str(path))
    assert tensors.keys() == {"a", "b"}
    assert all(tensor.all() for tensor in tensors.values())


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ones(tmp_path / "one.safetensors", "a", "b", "c", "d")
    while_it_is_read(monkeypatch, lambda: os.truncate(path, 2 * container._LARGE))
    with pytest.raises(CheckpointError, match=r"expected a safetensors file written by fxquant\.save"):
        container.read(str(path))


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells the peak of a call")
def test_a_file_never_lies_in_memory_twice(tmp_path: Path) -> None:
    path, kept, cpu = write_ones(tmp_path / "one.safetensors", *map(str, range(64))), [], torch.device("cpu")
    before = memory.held_bytes(cpu)
    peak = memory.peak_bytes(lambda: kept.append(container.read(str(path))), cpu)
    assert before is not None
    assert peak is not None
    assert peak - before < 1.5 * path.stat().st_size
    held = memory._status("VmRSS")
    kept.clear()
    left = memory._status("VmRSS")
    assert held is not None
    assert left is not None
    assert held - left > 0.9 * path.stat().st_size, "it goes back without trim_heap"


def test_a_newer_format_names_the_release_that_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "FORMAT", container.FORMAT + 1)
    monkeypatch.setattr(container, "__version__", "9.8.7")
    fxquant.save(at_stage("conv", "float"), path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"newer than this fxquant.*install fxquant 9\.8\.7 or later"):
        fxquant.load(path)


@pytest.mark.parametrize("number", ["0", "-1", "", "1.0", "one", "٣", "9" * 5000])
def test_a_format_that_is_no_number(number: str, path: Path) -> None:
    replace_metadata(path, fxquant_format=number)
    with pytest.raises(CheckpointError, match=r"header is damaged"):
        fxquant.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"nodes": NaN}', "1" * 10_000, "null", "[]", "3", '"x"', "{}"])
def test_a_header_that_is_no_graph(text: str, path: Path) -> None:
    replace_metadata(path, fxquant_graph=text, fxquant_graph_sha256=container._digest(text))
    with pytest.raises(CheckpointError):
        fxquant.load(path)


def test_a_changed_header_is_found(path: Path) -> None:
    contents, _ = checkpoints.read_parts(path)
    raw = path.read_bytes()
    assert contents["nodes"][0]["name"] == "x"
    path.write_bytes(raw.replace(b"int8_linear", b"int8_Linear", 1))
    with pytest.raises(CheckpointError, match="checksum"):
        fxquant.load(path)


def test_a_changed_tensor_is_named(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"tensor '.*' is damaged"):
        fxquant.load(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_found(data: st.DataObject, path: Path) -> None:
    raw = path.read_bytes()
    damaged = bytearray(raw)
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3), "places")):
        # Most bytes are tensors, which are alike: look at the header as often.
        if not damaged:
            break
        end = min(len(damaged), data.draw(st.sampled_from([16, header, len(raw)]), "end"))
        start = data.draw(st.integers(0, end - 1), "start")
        kind = data.draw(st.sampled_from(["flip", "byte", "cut", "insert", "truncate"]), "kind")
        if kind == "flip":
            damaged[start] ^= 1 << data.draw(st.integers(0, 7), "bit")
        elif kind == "byte":
            damaged[start] = data.draw(st.integers(0, 255), "byte")
        elif kind == "cut":
            del damaged[start : start + data.draw(st.integers(1, 9), "length")]
        elif kind == "insert":
            damaged[start:start] = data.draw(st.binary(min_size=1, max_size=9), "bytes")
        elif start:
            del damaged[start:]
    target = path.with_name("damaged.safetensors")
    target.write_bytes(damaged)
    try:
        loaded = fxquant.load(target)
    except CheckpointError:
        return
    assert_same(at_stage("conv", "int8", w_bits=4), loaded)


def replace_metadata(path: Path, **values: str) -> None:
    """Write the file again with other entries in its metadata."""
    with safetensors.safe_open(path, framework="pt") as f:
        metadata = f.metadata() | values
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)
