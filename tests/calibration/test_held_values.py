"""Values are held in memory up to a budget and on disk beyond it, and leave nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import fx

from fxquant.calibration.held_values import Values, size_of

X = torch.arange(10.0)  # 40 bytes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir())


def files(folder: Path) -> int:
    return len(list(folder.rglob("*.pt")))


def node(name: str) -> fx.Node:
    return fx.Graph().placeholder(name)


def test_what_fits_stays_in_memory(folder: Path) -> None:
    a, b = node("a"), node("b")
    with Values(80) as values:
        values.put(a, 0, X)
        values.put(b, 1, (X,))
        assert values.get(a, 0) is X
        assert values.get(b, 1)[0] is X
        assert values.used == 80
        assert (values.holds(a, 0), values.holds(a, 1), values.holds(b, 1)) == (True, False, True)
        assert files(folder) == 0


def test_what_does_not_fit_goes_to_a_file(folder: Path) -> None:
    a = node("a")
    with Values(90) as values:
        for batch in range(4):
            values.put(a, batch, X + batch)
        assert files(folder) == 2
        assert values.used == 80
        for batch in range(4):
            assert values.holds(a, batch)
            assert torch.equal(values.get(a, batch), X + batch)
            assert torch.equal(values.get(a, batch), X + batch), "a value can be read more than once"


def test_dropping_makes_room(folder: Path) -> None:
    a = node("a")
    with Values(40) as values:
        values.put(a, 0, X)
        values.put(a, 1, X)
        assert files(folder) == 1
        values.drop(a, 1)
        assert files(folder) == 0
        values.drop(a, 0)
        assert values.used == 0
        assert not values.holds(a, 0)
        values.drop(a, 0)  # nothing there any more
        values.put(a, 2, X + 1)
        assert files(folder) == 0
        assert torch.equal(values.get(a, 2), X + 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_files_are_gone_after_an_exception(folder: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with Values(0) as values:
            values.put(node("a"), 0, X)
            assert files(folder) == 1
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(folder.iterdir())


def test_values_of_every_kind_come_back(folder: Path) -> None:
    a = node("a")
    kinds = [X.bfloat16(), (X, X[:2]), [X.to(torch.int8), 3], {"x": X, "shape": (1, 2)}, X[:0], None, 7]
    with Values(0) as values:
        for batch, kind in enumerate(kinds):
            values.put(a, batch, kind)
        assert values.used == 0
        for batch, kind in enumerate(kinds):
            found = values.get(a, batch)
            assert str(found) == str(kind)
        assert files(folder) == 4, "what holds no bytes needs no file"


def test_shared_storage_is_not_written_twice_over(folder: Path) -> None:
    with Values(0) as values:
        values.put(node("a"), 0, torch.zeros(1_000_000)[:10])
        (path,) = folder.rglob("*.pt")
        assert path.stat().st_size < 100_000, "a view is not stored with all that it is a view of"


def test_sizes() -> None:
    assert size_of(None) == 0
    assert size_of([X, {"a": X.half()}, 3, "text"]) == 60
    assert size_of(torch.empty(5, 4, device="meta")) == 80
