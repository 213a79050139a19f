"""Digests of models."""

from __future__ import annotations

import copy

import torch

import fxquant
from fxquant.graph.fingerprint import fingerprint
from tests.support.models import small_vit


def test_fingerprints_tell_weights_and_graphs_apart() -> None:
    model = small_vit()
    one, other = fxquant.trace(model), fxquant.trace(copy.deepcopy(model))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(fxquant.trace(small_vit(depth=1)))
    with torch.no_grad():
        other.head.bias[0] += 1e-6  # type: ignore[operator, union-attr, index]
    assert fingerprint(one) != fingerprint(other)
    half = fxquant.trace(small_vit().bfloat16())
    assert fingerprint(half) == fingerprint(half)
