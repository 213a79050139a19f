"""
Trains in processes of its own, kills them, and lets others go on; run by test_killed.py with OMP_NUM_THREADS=1.

The processes are forks of one that has imported everything and done nothing else, which saves them the imports. What it had
done would be theirs, and not all of it survives: after `torch.set_num_threads` a fork's first backward pass may abort
("Invalid thread pool!"), as the threads it starts race to replace the pool that was inherited, and tqdm's lock, which
`torch.fx` takes, would be one for all of them, locked for good once its holder is killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from fxquant.training import TrainingOptions, train
from tests.support.trained_models import memory_data, prepared_vit

OPTIONS = TrainingOptions(epochs=4, batch_size=4, ema_decay=0.8, freeze_threshold=0.3)


def start(folder: Path, limit: float | None = None) -> int:
    """Return the id of a process that goes on from the folder's checkpoint, and is killed after `limit` seconds of training."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        prepared = prepared_vit()
        begin = time.process_time()
        if limit is not None:
            signal.setitimer(signal.ITIMER_PROF, limit)  # SIGPROF ends a process as SIGKILL does: nobody listens
        train(prepared, memory_data(), OPTIONS, folder=folder, resume=True, checkpoint_minutes=0, progress=False)
        signal.setitimer(signal.ITIMER_PROF, 0)
        (folder / "seconds").write_text(str(time.process_time() - begin))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(process: int) -> int:
    """Wait for a process to end; return how, a signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main(root: Path) -> None:
    """Train to the end once, and again with four processes that are killed somewhere, each wherever it is by then."""
    code = exit_code(start(root / "whole"))
    assert code == 0, f"the whole training ended with {code}"
    seconds = float((root / "whole" / "seconds").read_text())  # of the processor, which other processes do not change
    for limit in (random.uniform(0, 0.6 * seconds) for _ in range(4)):
        code = exit_code(start(root / "killed", limit))
        print(f"to be killed after {limit:.3f} s of {seconds:.3f} s: ended with {code}", flush=True)
        assert code in (-signal.SIGPROF, 0), "neither killed nor done"
    code = exit_code(start(root / "killed"))
    assert code == 0, f"the last training ended with {code}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
