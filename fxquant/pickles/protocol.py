"""
Pickles of protocols 3 to 5 in protocol 2, the one that torch reads without running code of the file.

Only how values are spelled changes. Strings are repeated where a pickle refers back to them, and the names of classes and
functions, which protocol 4 takes from the stack, are written where they are used.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

_ARCHIVE, _PROTOCOL = b"PK\x03\x04", 0x80
_READ = 2
_LEGACY_PICKLES = 5  # of a file that is no archive; the numbers of its tensors come after them
_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
_NOTHING = ("FRAME", "READONLY_BUFFER")
_LATIN = "latin1"


def read_as_protocol_2(file: Path) -> io.BytesIO:
    """
    Return what `torch.save` wrote to `file`, its pickles in protocol 2.

    Raises `pickle.UnpicklingError` for what that protocol has no form of, such as sets; a damaged file may raise anything.
    """
    content = file.read_bytes()
    if content.startswith(_ARCHIVE):
        return io.BytesIO(_rewrite_archive(content))
    return io.BytesIO(_rewrite_legacy(content) if _is_newer(content) else content)


def readable(file: Path) -> Path | io.BytesIO:
    """Return `file`, or what it holds in protocol 2 where that is another."""
    return read_as_protocol_2(file) if is_newer(file) else file


def is_newer(file: Path) -> bool:
    """Say whether a file of `torch.save` holds a pickle of a protocol above 2."""
    with file.open("rb") as opened:
        start = opened.read(len(_ARCHIVE))
        if start != _ARCHIVE:
            return _is_newer(start)
        opened.seek(0)
        try:
            with zipfile.ZipFile(opened) as archive:
                return any(_is_newer(archive.open(name).read(2)) for name in _pickles(archive))
        except zipfile.BadZipFile:  # torch says how it is damaged
            return False


def to_protocol_2(content: bytes) -> tuple[bytes, int]:
    """Return the pickle that `content` begins with in protocol 2, and where it ends."""
    made = _Rewriting(content)
    return made.run(), made.end


class _Rewriting:
    """One pickle. written: its opcodes so far, and the string that one pushes, where it does."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.end = 0
        self.written: list[tuple[bytes, str | None]] = []
        self.strings: dict[int, str] = {}
        self.memoized = 0

    def run(self) -> bytes:
        stream = io.BytesIO(self.content)
        for op, arg, position in pickletools.genops(stream):
            self._take(op.name, arg, self.content[position or 0 : stream.tell()], op.proto)
        self.end = stream.tell()
        return b"".join(code for code, _ in self.written)

    def _take(self, name: str, arg: object, code: bytes, proto: int) -> None:
        if name in _STRINGS:
            self._push(str(arg))
        elif name == "MEMOIZE":
            self._remember(self.memoized, _binput(self.memoized))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._remember(int(str(arg)), code)
        elif name in ("BINGET", "LONG_BINGET") and arg in self.strings:
            self._push(self.strings[int(str(arg))])
        elif name in _BYTES and isinstance(arg, bytes | bytearray):
            self._write(b"c_codecs\nencode\n" + _unicode(arg.decode(_LATIN)) + _unicode(_LATIN) + b"\x86R")
        elif name == "STACK_GLOBAL":
            self._write(self._named())
        elif name == "PROTO":
            self._write(bytes((_PROTOCOL, _READ)))
        elif name not in _NOTHING:
            if proto > _READ:
                raise pickle.UnpicklingError(f"it holds a {name}, which no label or weight has use for")
            self._write(code)

    def _push(self, text: str) -> None:
        self.written.append((_unicode(text), text))

    def _write(self, code: bytes) -> None:
        self.written.append((code, None))

    def _remember(self, number: int, code: bytes) -> None:
        self.memoized += 1
        text = self.written[-1][1]
        if text is not None:
            self.strings[number] = text
        else:
            self.strings.pop(number, None)
            self._write(code)

    def _named(self) -> bytes:
        names = [text for _, text in self.written[-2:] if text is not None and "\n" not in text]
        if len(names) != 2:
            raise pickle.UnpicklingError("it makes up the name of a class or function")
        del self.written[-2:]
        return f"c{names[0]}\n{names[1]}\n".encode()


def _rewrite_archive(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        newer = [name for name in _pickles(archive) if _is_newer(archive.open(name).read(2))]
        if not newer:
            return content
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as rewritten:
            for item in archive.infolist():
                if item.compress_type != zipfile.ZIP_STORED:
                    raise pickle.UnpicklingError("it is compressed, which torch.save does not do")
                held = archive.read(item)
                rewritten.writestr(item.filename, to_protocol_2(held)[0] if item.filename in newer else held)
    return made.getvalue()


def _rewrite_legacy(content: bytes) -> bytes:
    parts, start = [], 0
    for _ in range(_LEGACY_PICKLES):
        part, length = to_protocol_2(content[start:])
        parts.append(part)
        start += length
    return b"".join([*parts, content[start:]])


def _pickles(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if name.endswith("data.pkl")]


def _is_newer(content: bytes) -> bool:
    return len(content) > 1 and content[0] == _PROTOCOL and content[1] > _READ


def _unicode(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _binput(number: int) -> bytes:
    return b"q" + bytes((number,)) if number < 256 else b"r" + struct.pack("<I", number)
