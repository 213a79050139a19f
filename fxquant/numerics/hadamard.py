"""Orthogonal matrices that spread a value evenly over all channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(n: int) -> Tensor | None:
    """
    Return a Hadamard matrix, float64 ``(n, n)`` of 1 and -1 with orthogonal rows; None where none is known here.

    It is made by Sylvester's doubling of one of Paley's two constructions, which covers the widths of nearly all transformers.
    """
    if n in (1, 2):
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:n, :n]
    if n % 4:
        return None
    if _is_prime(n - 1):  # n - 1 = 3 modulo 4: Paley's first
        return torch.eye(n, dtype=torch.float64) + _bordered(n - 1, -1.0)
    half = hadamard(n // 2)
    if half is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)
    prime = n // 2 - 1
    if not _is_prime(prime) or prime % 4 != 1:
        return None
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    beside = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return torch.kron(torch.eye(n // 2, dtype=torch.float64), diagonal) + torch.kron(_bordered(prime, 1.0), beside)


def random_rotation(n: int, generator: torch.Generator) -> Tensor | None:
    """Return a Hadamard matrix with rows of random sign, orthonormal float64 ``(n, n)``; None where `hadamard` has none."""
    matrix = hadamard(n)
    if matrix is None:
        return None
    signs = torch.randint(2, (n, 1), generator=generator).double() * 2 - 1
    return matrix * signs / math.sqrt(n)


def keeping_mean(rotation: Tensor) -> Tensor:
    """
    Return the orthonormal matrix nearest in kind to `rotation`, ``(n, n)``, that leaves the mean of a row vector as it is.

    A layer norm without scale and shift commutes with it: ``layer_norm(x @ r) = layer_norm(x) @ r``. One reflection brings the
    image of ``(1, .., 1)`` back to it, which changes each entry by about 1 / n where entries are 1 / sqrt(n).
    """
    n = len(rotation)
    mean = torch.full((n,), n**-0.5, dtype=rotation.dtype)
    normal = mean @ rotation - mean
    length = normal @ normal
    if length < 1e-24:
        return rotation
    return rotation - torch.outer(rotation @ normal, normal) * (2 / length)


def _bordered(prime: int, corner: float) -> Tensor:
    """Return Jacobsthal's matrix of a `prime` under a row of ones and beside a column of `corner`."""
    squares = torch.zeros(prime, dtype=torch.float64).sub_(1.0)
    squares[torch.arange(1, prime) ** 2 % prime] = 1.0
    squares[0] = 0.0
    index = torch.arange(prime)
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[1:, 1:] = squares[(index[:, None] - index[None, :]) % prime]
    matrix[0, 1:], matrix[1:, 0] = 1.0, corner
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))
