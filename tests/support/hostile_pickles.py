"""Pickles made to run code, written by hand as files of `torch.save`."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path


def text(value: str) -> bytes:
    """Return the opcode that pushes a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(name: str) -> bytes:
    """Return the opcode that pushes a class or function by its dotted name."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def called(name: str, *arguments: bytes) -> bytes:
    """Return a call of what has that dotted name."""
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str, size: bytes) -> bytes:
    """Return the storage named 0, of a class and of as many numbers as `size` pushes."""
    return b"(" + text("storage") + named(kind) + text("0") + text("cpu") + size + b"tQ"


def hostile_values(mark: Path) -> dict[str, bytes]:
    """Return programs by name, without the opcode that ends them; each would make the file `mark`."""
    shell, code = text(f"touch {mark}"), text(f"open({str(mark)!r}, 'w').close()")
    nested = b"\x80\x02" + called("builtins.eval", code) + b"."
    partial = called("functools.partial", named("builtins.eval"), code)
    return {
        "system": called("os.system", shell),
        "posix": called("posix.system", shell),
        "eval": called("builtins.eval", code),
        "eval of Python 2": called("__builtin__.eval", code),
        "exec": called("builtins.exec", code),
        "popen": called("subprocess.Popen", b"(" + text("touch") + text(str(mark)) + b"l"),
        "partial": partial,
        "call of a partial": partial + b")R",
        "partial by its state": called("functools.partial", named("builtins.eval"))
        + b"("
        + named("builtins.eval")
        + b"("
        + code
        + b"tNNtb)R",
        "getattr": called("builtins.getattr", named("builtins"), text("eval")) + b"(" + code + b"tR",
        "dotted name": called("torch.serialization.os.system", shell),
        "call of a call": called("operator.methodcaller", text("write_text"), text(""))
        + b"("
        + called("pathlib.Path", text(str(mark)))
        + b"tR",
        "INST": b"(" + code + b"ibuiltins\neval\n",
        "OBJ": b"(" + named("builtins.eval") + code + b"o",
        "STACK_GLOBAL": text("builtins") + text("eval") + b"\x93(" + code + b"tR",
        "NEWOBJ": named("subprocess.Popen") + b"((" + text("touch") + text(str(mark)) + b"lt\x81",
        "NEWOBJ_EX": named("subprocess.Popen") + b")}" + text("args") + shell + b"s\x92",
        "state with a reducer": named("builtins.object")
        + b")\x81}"
        + text("__setstate__")
        + named("builtins.eval")
        + b"sb"
        + code
        + b"b",
        "state of a class": named("torch.Tensor") + b"N}" + text("__add__") + named("builtins.eval") + b"s\x86b",
        "state of a function": named("torch._utils._rebuild_tensor") + b"N}" + text("__code__") + code + b"s\x86b",
        "storage from bytes": called("torch.storage._load_from_bytes", b"U" + bytes([len(nested)]) + nested),
        "torch.load": called("torch.load", text(str(mark))),
        "rebuilt by a function": called(
            "torch._tensor._rebuild_from_type_v2",
            named("builtins.eval"),
            named("torch.Tensor"),
            b"(" + code + b"t",
            b"}",
        ),
        "storage of a class": storage("builtins.eval", b"K\x01"),
        "storage without end": storage("torch.FloatStorage", b"\x8a\x06" + bytes(5) + b"\x01"),
        "other persistent id": b"(" + text("module") + named("builtins.eval") + code + code + b"tQ",
        "extension": b"\x82\x01)R",
        "long of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "bytes of 2 ** 60": b"\x8e" + struct.pack("<Q", 2**60),
        "array of 2 ** 60": b"\x96" + struct.pack("<Q", 2**60),
        "frame of 2 ** 60": b"\x95" + struct.pack("<Q", 2**60),
        "stack underflow": b"0R",
    }


def write_zip(file: Path, program: bytes, ending: bytes = b".") -> Path:
    """Write `program` as `torch.save` writes what was pickled, with a storage of 1 float named 0."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program + ending)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(4))
        archive.writestr("archive/version", b"3\n")
    return file
