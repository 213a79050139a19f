"""Turn the residual stream, so that no channel has much larger values than others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.channels import linear_readers
from fxquant.graph.fold_tensors import change_columns, change_written
from fxquant.graph.residual_streams import Stream, exact_streams
from fxquant.graph.rewrite import edit
from fxquant.numerics.hadamard import keeping_mean, random_rotation


@dataclass(frozen=True)
class RotateResidual:
    """
    Multiply each residual stream by a random orthogonal matrix R, ``(C, C)``, which leaves the mean of each token alone.

    Before:  x = tokens + linear(h, w, b); y = layer_norm(x, (C,), None, None, eps); linear(y, v, c)
    Becomes: x = tokens @ R + linear(h, R.T @ w, b @ R); y = layer_norm(x, (C,), None, None, eps); linear(y, v @ R, c)

    R is a Hadamard matrix with random signs and one reflection: see `fxquant.numerics.hadamard`. Norms commute with it, so they
    stay what they are. `fold_norm_affine` comes first. seed: of the signs. Raises `UnsupportedGraphError` naming an obstacle of
    `fxquant.graph.residual_streams`, or a width that no Hadamard matrix is known for (QuaRot; GLF-Q, appendix B).
    """

    seed: int = 0

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Rotate every stream."""
        return edit(gm, self._rotate)

    def _rotate(self, gm: fx.GraphModule) -> bool:
        generator = torch.Generator().manual_seed(self.seed)
        for stream in exact_streams(gm.graph, "rotate"):
            rotation = random_rotation(stream.width, generator)
            if rotation is None:
                raise UnsupportedGraphError(
                    f"folds: rotate needs a Hadamard matrix as wide as the residual stream, and knows none of width "
                    f"{stream.width}: leave it out"
                )
            _rotate_stream(stream, keeping_mean(rotation))
        return True


def _rotate_stream(stream: Stream, rotation: Tensor) -> None:
    readers = list(stream.layers)
    for norm in stream.norms:
        readers += [r for r in linear_readers(norm) if isinstance(r, fx.Node) and r not in readers]
    for writer in stream.writers:
        change_written(writer, stream.nodes, lambda rows: rows @ rotation.to(rows.device))
    for reader in readers:
        change_columns(reader, lambda weight: weight @ rotation.to(weight.device))
