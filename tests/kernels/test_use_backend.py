"""`use_backend` chooses kernels for a block of code, and operands that kernels do not take fall back on torch."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, use_backend
from fxquant.ops import int8_linear, quantize

X = torch.randn(3, 8)


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_available", lambda: True)


def test_aten_uses_no_kernels(available: None) -> None:
    assert on_cpu_kernels(X, None)
    with use_backend("aten"):
        assert not on_cpu_kernels(X)
        with use_backend("auto"):
            assert on_cpu_kernels(X)
        assert not on_cpu_kernels(X)
    assert on_cpu_kernels(X)


def test_the_choice_ends_with_an_error(available: None) -> None:
    with pytest.raises(KeyError), use_backend("aten"):
        raise KeyError
    assert on_cpu_kernels(X)


def test_the_choice_is_one_of_its_thread(available: None) -> None:
    found: list[bool] = []
    with use_backend("aten"):
        thread = threading.Thread(target=lambda: found.append(on_cpu_kernels(X)))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:  # nor do the threads of a pool see it, unless they are given it
            alone = pool.submit(on_cpu_kernels, X)
            given = pool.submit(contextvars.copy_context().run, on_cpu_kernels, X)
    assert found == [True]
    assert (alone.result(), given.result()) == (True, False)


def test_another_name_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="unknown backend 'cuda': expected one of 'auto', 'aten'"),
        use_backend("cuda"),
    ):
        pass


class Wrapped(Tensor):
    """A tensor that kernels cannot look into."""


def test_operands_kernels_cannot_read(available: None) -> None:
    assert on_cpu_kernels(torch.nn.Parameter(X))
    assert not on_cpu_kernels(X, X.as_subclass(Wrapped))
    assert not on_cpu_kernels(X.to("meta"))
    assert not on_triton_kernels(X)


def test_compiled_code_uses_torch(available: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not on_cpu_kernels(X)


def test_operators_run_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the kernels are not there")

    monkeypatch.setattr(cpu, "is_available", lambda: False)
    monkeypatch.setattr(cpu, "linear", refuse)
    monkeypatch.setattr(cpu, "quantize", refuse)
    codes = quantize(X, torch.tensor(0.1), None, -128, 127)
    weight = torch.eye(8, dtype=torch.int8)
    y = int8_linear(codes, weight, torch.ones(8), torch.zeros(8), None, None, torch.float32, True)
    assert torch.equal(y, codes.float())
