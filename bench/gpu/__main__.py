"""
How fast converted models are on an NVIDIA GPU beside bfloat16 under torch.compile at its best.

Run ``python -m bench.gpu``: it checks that the kernels are right, then measures, the cells that matter most first, until eight
minutes are over, and writes ``bench/results/gpu_<device>.json`` after each one. A cell holds all its competitors, interleaved
in one run: int8 and float8 codes, and at one batch size torchao and TensorRT too, where they are installed. Run it again to
measure the cells that are left; ``--again`` measures all anew, ``--check`` none, ``--forms`` some competitors alone. It ends
with 1 where a check fails, with 2 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.gpu.cells import FORMS, MODELS, cells_left, result_name, run_cells
from bench.harness.results import results_file
from fxquant.kernels import triton

SECONDS = 480


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--forms", nargs="+", choices=FORMS, metavar="FORM", help=f"of {', '.join(FORMS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="past which no new cell begins (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only check that the kernels are right")
    parser.add_argument("--no-check", action="store_true", help="measure at once")
    parser.add_argument("--again", action="store_true", help="also cells that this commit was measured on")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    problem = triton.obstacle(0)
    if problem is not None:
        print(f"bench.gpu needs a CUDA device that fxquant has kernels for: {problem}", file=sys.stderr)
        return 2
    if not options.no_check:
        from bench.gpu.checks import run_checks

        if run_checks() is not None:
            print("the kernels are wrong on this device: nothing was measured", file=sys.stderr)
            return 1
    if options.check:
        return 0
    left = run_cells(cells_left(options.models, options.batch, options.again), options.rounds, end, options.forms)
    print(f"results: {results_file(result_name())}")
    if left:
        print(f"no time for {len(left)} cells, run it again: {', '.join(f'{m} batch {b}' for m, b in left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
