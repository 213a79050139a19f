"""Being asked to stop."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from fxquant.training.interruption import Interruption, Stop, outlive_first_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    interruption = Interruption()
    with interruption.listening():
        interruption.heed()
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is before  # a second one is not held up
        with pytest.raises(Stop):
            interruption.heed()
    assert signal.getsignal(number) is before


def test_other_threads_cannot_listen_and_do_not_fail() -> None:
    passed = []

    def run() -> None:
        with Interruption().listening():
            passed.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert passed


def test_a_loading_process_outlives_one_signal() -> None:
    pid = os.fork()
    if not pid:
        outlive_first_signal()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
