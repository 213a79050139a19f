"""What a command measured as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fxquant.errors import InputError
from fxquant.files.text_file import write_text

STANDARD_OUTPUT = Path("-")
"""What is named instead of a file where the standard output is meant."""


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """
    Write `data` under a temporary name first, so that an interrupted command leaves the old file or none.

    Raises `InputError` where the file cannot be written.
    """
    if file == STANDARD_OUTPUT:
        print(json.dumps(data, indent=2, allow_nan=False, default=str, ensure_ascii=False), flush=True)
        return
    write_text(file, json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")


@contextlib.contextmanager
def json_report(file: Path | None) -> Iterator[dict[str, Any]]:
    """
    Yield a dictionary that is written to `file` at the end of the block; None writes nothing.

    Where the block fails, what it had put in by then is written with the reason under "error": hours of work are not lost to
    a last step. Where nothing was put in, an old file stays. Where it is written to the standard output, what the block
    prints goes to the standard error. Raises `InputError` where the file cannot be written.
    """
    facts: dict[str, Any] = {}
    aside = contextlib.redirect_stdout(sys.stderr) if file == STANDARD_OUTPUT else contextlib.nullcontext()
    try:
        with aside:
            yield facts
    except BaseException as error:
        if file is not None and facts:
            with contextlib.suppress(InputError):  # the first error is the one to tell
                write_json(file, facts | {"error": str(error) or type(error).__name__})
        raise
    if file is not None and facts:
        write_json(file, facts)
