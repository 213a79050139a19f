"""What errors of the system and of other libraries come to, without what is meant for others."""

from __future__ import annotations

import os
import re

_LONGEST = 300  # characters of another library's message
# What torch says of a pickle that names anything but data; the rest of its message is advice to read the file unsafely.
_UNPICKLER = re.compile(r"WeightsUnpickler error:\s*([^\n]*)")
_NAMED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_OPERAND = re.compile(r"Unsupported operand \d+|invalid load key")
_MEMORY = re.compile(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes")
_HEADER = re.compile(r"Error while deserializing header: ([^\n]*)")
_SYSTEM = re.compile(r"\(os error (\d+)\)")  # as Rust, and safetensors with it, adds to each
_WRITER = re.compile(r"PytorchStreamWriter|inline_container|iostream error")
_READER = re.compile(r"PytorchStreamReader|central directory|not a ZIP archive", re.IGNORECASE)


def reason_of(error: BaseException) -> str:
    """
    Return in one line what an error of the system or of another library says, without its advice and its source files.

    The advice is for its own callers: to load a file unsafely, to set an option that fxquant does not hand on.
    """
    text = str(error).strip()
    system = _SYSTEM.search(text)
    if system is not None:
        return os.strerror(int(system[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if _WRITER.search(text):  # torch hides what the system said behind a count of bytes
        cause = error.__cause__ or error.__context__
        return cause.strerror if isinstance(cause, OSError) and cause.strerror else "it could not be written whole"
    if _READER.search(text) or _OPERAND.search(text) or isinstance(error, EOFError):
        return "it is no whole file of torch.save"
    memory, header = _MEMORY.search(text), _HEADER.search(text)
    if memory is not None:
        return f"out of memory: {memory[1]} bytes were asked for"
    if header is not None:
        return f"it is no whole safetensors file ({header[1]})"
    found = _UNPICKLER.search(text)
    named = _NAMED.search(text)
    if named is not None:
        return f"it asks for {named[1]}, which is not run"
    line = (found[1] if found is not None else text.partition("\n")[0]).strip() or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
