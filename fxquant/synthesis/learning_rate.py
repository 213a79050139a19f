"""The learning rate of a round of synthesis."""

from __future__ import annotations

import math


def learning_rate(iteration: int, base: float, warmup: int, iterations: int) -> float:
    """
    Return the learning rate of `iteration`, counted from 0 in each round of `iterations`.

    It rises in equal steps, reaches `base` at the last of `warmup` iterations, and then falls along a half cosine.
    """
    if iteration < warmup:
        return base * (iteration + 1) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (iterations - warmup)))
