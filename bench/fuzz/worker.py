"""A process that makes files and tries them, one line of JSON before and one after each; `bench.fuzz` watches it."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import time
from pathlib import Path

import torch

from bench.fuzz.mutate import write_mutant
from bench.fuzz.trial import FINE, try_file

MEMORY = 3 * 2**30  # bytes that a worker may take beyond what it has when it starts


def main(seed: int, start: int, stop: int, step: int, sample: int, folder: str) -> None:
    """Try the files ``start, start + step, ... < stop``; each `sample`-th of them is run by inductor, too."""
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    seeds = sorted((Path(folder) / "seeds").glob("*.safetensors"))
    target = Path(folder) / f"worker_{os.getpid()}.safetensors"
    for file in seeds:
        try_file(file)  # imports all there is to import
    _limit_memory()
    for index in range(start, stop, step):
        rng = random.Random(f"{seed}:{index}")
        source = rng.choice(seeds)
        changes = write_mutant(source, target, rng)
        print(json.dumps({"index": index, "file": target.name, "source": source.stem, "changes": changes}))
        begun = time.process_time()
        outcome, said = try_file(target, inductor=sample > 0 and index // step % sample == 0)
        seconds = round(time.process_time() - begun, 3)
        if outcome not in FINE:
            shutil.copy(target, Path(folder) / "findings" / f"{outcome}_{seed}_{index}.safetensors")
        print(json.dumps({"index": index, "outcome": outcome, "said": said[:600], "seconds": seconds}))
    target.unlink(missing_ok=True)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    numbers = [int(value) for value in sys.argv[1:6]]
    main(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], sys.argv[6])
