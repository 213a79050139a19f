"""
Change small checkpoints at random, with checksums that are right, load them, and run what loads.

    python -m bench.fuzz --files 100000 --seed 0 --folder /tmp/fuzz    # writes bench/results/fuzz.json

Files are numbered, and each follows from the seed and its number. A file is refused by `CheckpointError`, or it loads and runs:
as it is, and with the kernels that `fxquant.compile` puts into its graph. Anything else is a finding, kept in
``folder/findings``: another exception at load, any exception later, a crash, more than five seconds, more than three GiB. An
interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from bench.fuzz.seeds import make_seeds
from bench.fuzz.watch import Watch
from bench.harness.results import describe_run
from fxquant.files import write_json


def main() -> None:
    """Fuzz from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--inductor", type=int, default=0, metavar="N", help="run each N-th file by inductor, too")
    parser.add_argument("--folder", type=Path, required=True, help="for seeds, findings and what was done so far")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fuzz.json"))
    options = parser.parse_args()
    seeds = make_seeds(options.folder / "seeds")
    watches = [
        Watch(options.folder, options.seed, first, options.workers, options.files, options.inductor)
        for first in range(options.workers)
    ]
    facts = describe_run() | {"seed": options.seed, "seeds": [file.stem for file in seeds]}
    said = time.monotonic()
    while any(not watch.done for watch in watches):
        for watch in watches:
            watch.poll()
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(json.dumps(_totals(watches)), flush=True)
    write_json(options.out, facts | {"inductor_sample": options.inductor} | _totals(watches))
    print(json.dumps(_totals(watches)), flush=True)


def _totals(watches: list[Watch]) -> dict[str, object]:
    counts: dict[str, int] = {}
    for watch in watches:
        for outcome, number in watch.counts.items():
            counts[outcome] = counts.get(outcome, 0) + number
    return {"files": sum(counts.values()) - counts.get("inductor", 0), "outcomes": dict(sorted(counts.items()))}


if __name__ == "__main__":
    main()
