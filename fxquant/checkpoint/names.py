"""
Which names and texts a checkpoint may hold.

torch.fx writes Python source from a graph and runs it. Names stand in that source as they are, so they must be nothing but
names; texts can end up in a docstring of it (``FX_GRAPH_SHOW_META=1``), so they must not be able to end one.
"""

from __future__ import annotations

import keyword
import re

from fxquant.errors import CheckpointError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"[A-Za-z0-9_-]+")  # of a path: ModuleList names its children 0, 1, ...
_KEY = re.compile(r"[\w./: -]+")
MAX_LENGTH = 1000


def check_identifier(name: object, what: str) -> str:
    """Return `name` where it is a plain Python identifier; raise `CheckpointError` calling it `what` otherwise."""
    if isinstance(name, str) and len(name) <= MAX_LENGTH and _IDENTIFIER.fullmatch(name) and _is_part(name):
        return name
    raise CheckpointError(f"{what}: expected an identifier, found {_shown(name)}")


def check_path(path: object, what: str) -> str:
    """Return `path` where it is a dotted name such as ``blocks.0.attn.qkv.weight``; raise `CheckpointError` otherwise."""
    if isinstance(path, str) and len(path) <= MAX_LENGTH and all(_is_part(part) for part in path.split(".")):
        return path
    raise CheckpointError(f"{what}: expected a dotted name such as 'blocks.0.weight', found {_shown(path)}")


def check_key(key: object) -> str:
    """Return `key` where it is words, such as ``logits`` or ``1-class``; raise `CheckpointError` otherwise."""
    if isinstance(key, str) and len(key) <= MAX_LENGTH and _KEY.fullmatch(key) and not key.startswith("__"):
        return key
    raise CheckpointError(f"key: expected words of letters, digits and any of - . / : and space, found {_shown(key)}")


def check_text(text: object, what: str) -> str:
    """Return `text` where it is printable, one line and free of triple quotes; raise `CheckpointError` otherwise."""
    if isinstance(text, str) and text.isprintable() and '"""' not in text:
        return text
    raise CheckpointError(f"{what}: expected one line of text, found {_shown(text)}")


def _is_part(part: str) -> bool:
    return bool(_PART.fullmatch(part)) and not part.startswith("__") and not keyword.iskeyword(part)


def _shown(value: object) -> str:
    return f"{value!r:.100}"
