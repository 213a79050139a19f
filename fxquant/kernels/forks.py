"""
What becomes of torch's threads in a process that forks.

OpenMP's threads do not come along into the child, where the next parallel loop of the thread that forked would wait for them
for ever. As the workers of torch's DataLoader do, such a child computes on one thread. Nor do those of torch's compiler: the
child compiles nothing.
"""

from __future__ import annotations

import logging
import os

import torch

logger = logging.getLogger(__name__)
_worked = False  # this process, or one that it was forked from, has made a graph: OpenMP may have threads
_forked = False  # this process was forked from one that had
_untold = False  # this process was left with one thread, and nobody has been told


def expect_threads() -> None:
    """Note that parallel loops run in this process; whatever makes a graph calls it."""
    global _worked
    _worked = True


def tell_of_fork() -> None:
    """Say once, in a process that was forked after a graph was made, that it computes on one thread."""
    global _untold
    if _untold:
        _untold = False
        logger.warning(
            "this process was forked after a model was made, and threads do not outlive a fork: it computes on one thread, and "
            "compiles nothing. For more, load the model after the fork, or start processes by spawn"
        )


def is_forked() -> bool:
    """Say whether this process was forked after a graph was made: then torch's compiler would wait for ever, too."""
    return _forked


def _keep_one_thread() -> None:
    global _forked, _untold
    _forked = _forked or _worked
    if _worked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _untold = True


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_keep_one_thread)
