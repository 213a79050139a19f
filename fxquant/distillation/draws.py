"""Random numbers that depend on a key alone, not on what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def random_of(*key: int | str) -> np.random.RandomState:
    """Return a generator that is the same for the same `key`, with any version of NumPy and on any machine."""
    plain = tuple(
        part if isinstance(part, str) else int(part) for part in key
    )  # NumPy writes its numbers in its own way
    digest = hashlib.sha256(repr(plain).encode()).digest()
    # RandomState's stream is frozen by NumPy (NEP 19).
    return np.random.RandomState(np.frombuffer(digest, "<u4"))
