"""Trains in processes of its own, kills them, and lets others go on; run by test_killed.py, as it must not use threads."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import fx

from fxquant.training import TrainingOptions, train
from tests.support.trained_models import memory_data, prepared_vit

OPTIONS = TrainingOptions(epochs=4, batch_size=4, ema_decay=0.8, freeze_threshold=0.3)


def start(prepared: fx.GraphModule, folder: Path) -> int:
    """Return the id of a process that trains, going on where the folder's checkpoint is."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        train(prepared, memory_data(), OPTIONS, folder=folder, resume=True, checkpoint_minutes=0, progress=False)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(root: Path) -> None:
    """Train to the end once, and again with four processes that are killed at random times, wherever they are by then."""
    prepared = prepared_vit()
    begin = time.monotonic()
    assert os.waitpid(start(prepared, root / "whole"), 0)[1] == 0
    seconds = time.monotonic() - begin
    times = random.Random(os.getpid())
    for _ in range(4):
        process = start(prepared, root / "killed")
        time.sleep(times.uniform(0, 0.9) * seconds)
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, f"a training failed with {status}"
    assert os.waitpid(start(prepared, root / "killed"), 0)[1] == 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # before anything is computed: what is forked has no threads
    main(Path(sys.argv[1]))
