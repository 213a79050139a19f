"""Fold the scale and shift of norms into the linear layers that read them."""

from __future__ import annotations

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of
from fxquant.graph.channels import is_norm, linear_readers
from fxquant.graph.fold_tensors import (
    change_columns,
    exact_bias,
    exact_weight,
    norm_tensors,
    replace_norm,
    set_exact_bias,
)
from fxquant.graph.rewrite import blame, edit


def fold_norm_affine(gm: fx.GraphModule) -> PassResult:
    """
    Leave layer norms and RMS norms that linear layers alone read without scale and shift.

    Before:  y = layer_norm(x, (C,), gamma, beta, eps); linear(y, w, b)
    Becomes: y = layer_norm(x, (C,), None, None, eps); linear(y, w * gamma, b + w @ beta)

    The tokens may be moved, picked or averaged in between. Where anything else reads a norm, it stays as it is.
    """
    return edit(gm, _fold)


def _fold(gm: fx.GraphModule) -> bool:
    modified = False
    for norm in [n for n in gm.graph.nodes if is_norm(n)]:
        given = arguments_of(norm)
        if given["weight"] is None and given.get("bias") is None:
            continue
        readers = linear_readers(norm)
        if isinstance(readers, str):
            continue
        with blame("fold_norm_affine", norm):
            _fold_one(norm, readers)
        modified = True
    return modified


def _fold_one(norm: fx.Node, readers: tuple[fx.Node, ...]) -> None:
    gamma, beta = norm_tensors(norm)
    for reader in readers:
        set_exact_bias(reader, exact_bias(reader) + exact_weight(reader) @ beta)
        change_columns(reader, lambda weight: weight * gamma)
    replace_norm(norm, norm.target, weight=None, bias=None)
