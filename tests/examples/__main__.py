"""Run notebooks of `examples/` anew and write them with their outputs: ``python -m tests.examples [NAME ...]``."""

from __future__ import annotations

import argparse
import time

from tests.support.notebooks import NOTEBOOKS, execute, write


def main() -> None:
    """Run those that the command line names, or all."""
    known = {file.stem: file for file in NOTEBOOKS}
    parser = argparse.ArgumentParser(prog="python -m tests.examples", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all of {', '.join(known)}")
    for name in parser.parse_args().names or known:
        if name not in known:
            parser.error(f"unknown notebook {name!r}: expected one of {', '.join(known)}")
        start = time.perf_counter()
        write(execute(known[name]), known[name])
        print(f"{name}: {time.perf_counter() - start:.0f} s, {known[name].stat().st_size / 1e3:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
