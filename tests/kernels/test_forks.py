"""A process that is forked after a model ran gives the same logits, on one thread, and says so."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.kernels import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
SECONDS = 60  # in which a child that hangs is one


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model_and_images() -> tuple[fx.GraphModule, Tensor]:
    """Return an int8 model that is wide enough for two threads, and what it ran on."""
    model, x = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)).eval(), torch.randn(1024, 128)
    return fxquant.quantize(model, [x], "minmax", progress=False), x


def exit_code_of_child(work: Callable[[], bool]) -> int:
    """Return 0 where `work` returns True in a forked process; a process that hangs is killed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_of_a_process_that_ran_a_model(two_threads: None, caplog: pytest.LogCaptureFixture) -> None:
    gm, x = model_and_images()
    wanted = gm(x)

    def works() -> bool:
        with caplog.at_level(logging.WARNING):
            same = torch.equal(gm(x), wanted) and torch.equal(gm(x), wanted)
        told = [record for record in caplog.records if "load the model after the fork" in record.message]
        return same and torch.get_num_threads() == 1 and len(told) == 1

    assert exit_code_of_child(works) == 0
    assert torch.get_num_threads() == 2
    assert torch.equal(gm(x), wanted)


def test_a_fork_before_any_model_keeps_its_threads(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_worked", False)
    assert exit_code_of_child(lambda: torch.get_num_threads() == 2) == 0


def _logits(x: Tensor) -> Tensor:
    return COMPILED[0](x)


COMPILED: list[nn.Module] = []


@pytest.mark.long
def test_a_compiled_model_in_a_pool_of_forks(two_threads: None) -> None:
    gm, x = model_and_images()
    COMPILED[:] = [fxquant.compile(gm)]
    wanted = COMPILED[0](x)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_logits, [x] * 4).get(timeout=SECONDS)
    for logits in found:
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
