"""Rows of what other programs tried: the fuzzer, and the generated tests of operators."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.harness.processes import run_module
from bench.harness.results import ROOT, Row, read_results

_TESTS = "tests/kernels/test_checks.py"
# Outcomes of a fuzzed file that are no findings, in words.
_FINE = {
    "refused": "refused",
    "ran": "ran",
    "undeclared": "declare no input, loaded and raised an error as they ran",
    "values": "loaded, and an observer refused values that are not finite",
    "too large": "declare an input too large for a trial",
}


def other_rows() -> Iterator[Row]:
    """Yield the row of each program that is there and has been run."""
    fuzz = read_results("fuzz")
    if fuzz:
        counts: dict[str, int] = {name: n for name, n in fuzz["outcomes"].items() if n and name != "inductor"}
        text = "a saved model is changed by a fuzzer that knows its structure, its checksums made anew"
        good = {_FINE[name]: n for name, n in counts.items() if name in _FINE}
        bad = {name: n for name, n in counts.items() if name not in _FINE}
        yield {"case": "fuzz", "text": text, "tried": fuzz["files"], "good": good, "bad": bad}
    if (ROOT / _TESTS).exists():
        yield _operators()


def _operators() -> Row:
    done = run_module("pytest", "-p", "no:randomly", _TESTS)
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?)", done.stdout)}
    if "passed" not in counts:
        raise SystemExit(f"the tests of operators did not run:\n{done.stdout}{done.stderr}")
    text = "an operator is called directly with a wrong argument (generated tests)"
    good = {"tests passed": counts.pop("passed")}
    return {
        "case": "operators",
        "text": text,
        "tried": sum((*good.values(), *counts.values())),
        "good": good,
        "bad": counts,
    }
