"""Operands with a scale per token: their codes, and the scales that are computed with them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxquant.graph.calls import arguments_of, call
from fxquant.graph.meta import set_value
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.ops import dequantize_tokens, layer_norm_quantize_tokens, quantize_tokens

TOKEN_QUANTIZERS = (
    quantize_tokens,
    layer_norm_quantize_tokens,
    KERNELS.cpu_quantize_tokens.default,
    KERNELS.cpu_layer_norm_quantize_tokens.default,
    KERNELS.cpu_gemm_tokens.default,
)


class TokenSite(NamedTuple):
    """Codes ``(..., K)``, and scale and zero point ``(...)`` of each row, by the names of `fxquant.ops.dequantize_tokens`."""

    codes: fx.Node
    scale: fx.Node
    zero_point: fx.Node

    @property
    def maker(self) -> fx.Node | None:
        """The one call that gave all three, None where they come from elsewhere."""
        made = [node.args for node in self if node.target is operator.getitem]
        makers = {args[0] for args in made if isinstance(args[0], fx.Node)}
        maker = makers.pop() if len(makers) == 1 else None
        whole = [args[1] for args in made] == [0, 1, 2] and maker is not None
        return maker if whole and maker is not None and maker.target in TOKEN_QUANTIZERS else None


def token_site(value: object) -> TokenSite | None:
    """Return what a call of `dequantize_tokens` reads, None for any other value."""
    if not isinstance(value, fx.Node) or value.target is not dequantize_tokens:
        return None
    return TokenSite(**arguments_of(value))


def codes_of(value: Any) -> Any:
    """Return the codes that a call gives beside their scales; any other value itself."""
    if not isinstance(value, fx.Node) or value.target not in TOKEN_QUANTIZERS:
        return value
    return next((user for user in value.users if user.target is operator.getitem and user.args[1] == 0), value)


def quantize_tokens_site(
    graph: fx.Graph, target: Any, arguments: Mapping[str, Any], values: Tensor | None
) -> TokenSite:
    """Build the call of `target`, one that gives codes with a scale per token, of what has these `values`, if known."""
    made = call(graph, target, arguments)
    site = TokenSite(*(graph.call_function(operator.getitem, (made, index)) for index in range(3)))
    if values is not None:
        rows = values[..., 0]
        likes = zip(site, (values, rows, rows), (torch.int8, torch.float32, torch.int32), strict=True)
        for node, like, dtype in likes:
            set_value(node, torch.empty_like(like, dtype=dtype, device="meta"))
    return site
