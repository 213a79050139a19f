"""Take the mean out of the residual stream, so that layer norms become RMS norms."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.channels import name_of
from fxquant.graph.fold_tensors import change_written, replace_norm
from fxquant.graph.residual_streams import Stream, exact_streams
from fxquant.graph.rewrite import edit


def center_residual(gm: fx.GraphModule) -> PassResult:
    """
    Let everything that writes into a residual stream write values of mean zero.

    Before:  x = tokens + linear(h, w, b); layer_norm(x, (C,), None, None, eps)
    Becomes: x = tokens_centred + linear(h, w - w.mean(0), b - b.mean()); rms_norm(x, (C,), None, eps)

    `fold_norm_affine` comes first. Streams that RMS norms read stay as they are. Raises `UnsupportedGraphError` naming what
    stands in the way: a layer that reads the stream without a norm, or an obstacle of `fxquant.graph.residual_streams`.
    """
    return edit(gm, _center)


def _center(gm: fx.GraphModule) -> bool:
    modified = False
    for stream in exact_streams(gm.graph, "center"):
        kinds = {norm.target for norm in stream.norms}
        if kinds == {F.rms_norm}:
            continue
        _refuse_other_readers(stream)
        for writer in stream.writers:
            change_written(writer, stream.nodes, lambda rows: rows - rows.mean(-1, keepdim=True))
        for norm in stream.norms:
            replace_norm(norm, F.rms_norm)
        modified = True
    return modified


def _refuse_other_readers(stream: Stream) -> None:
    other = next((n for n in (*stream.layers, *stream.norms) if n.target is not F.layer_norm), None)
    if other is not None:
        raise UnsupportedGraphError(
            f"folds: center is not exact in this model, leave it out: {name_of(other)} reads the mean of the residual stream"
        )
