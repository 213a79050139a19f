"""The exit codes of the command."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """
    How a command ended.

    DONE: all was done.
    UNFORESEEN: an error that nobody foresaw.
    REFUSED: an error that the call, the data or the machine can mend.
    INTERRUPTED: Ctrl-C, as shells count signals.
    UNREAD: the reader of the standard output went away, as ``head`` does.
    """

    DONE = 0
    UNFORESEEN = 1
    REFUSED = 2
    INTERRUPTED = 130
    UNREAD = 141
