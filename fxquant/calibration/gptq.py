"""GPTQ and GPTAQ: round weights column by column, each column making up for the errors of those before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxquant.calibration.moments import damped

Round = Callable[[Tensor], Tensor]  # weights (O, n) to the nearest values of their rows' grids


def gptq(
    weight: Tensor,
    second: Tensor,
    to_grid: Round,
    damping: float,
    act_order: bool,
    block: int,
    error: Tensor | None = None,
    asymmetry: float = 0.0,
) -> Tensor:
    """
    Return `weight`, ``(O, K)``, rounded by `to_grid` so that the output ``W x`` changes little (GPTQ, arXiv:2210.17323).

    second: H, the mean of x^T x, ``(K, K)``. With U the upper Cholesky factor of H^-1, the error e of column i, in units of
    ``U_ii``, is made up for by ``W[:, i:] -= e U[i, i:]``. act_order: begin with the columns of largest H_ii. block: how many
    columns wait before the columns behind them are brought up to date; the result does not depend on it.

    error: the mean of (f - x)^T x, ``(K, K)``, with f what the float layer reads. GPTAQ (arXiv:2504.02692) aims at W f instead:
    column i also gives ``W[:, i:] += w_i P[i, i:]``, ``P = asymmetry * triu(error U^T, 1) U``.
    """
    order = second.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(len(second))
    order = order.to(second.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(second, damping)[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    passed_on = -upper / upper.diagonal()[:, None]
    own = torch.zeros_like(upper)
    if error is not None and asymmetry:
        own = asymmetry * (error[order][:, order] @ upper.T).triu(1) @ upper
    moved = weight.double()[:, order]
    rounded = torch.empty_like(moved)
    for start in range(0, len(order), block):
        end = min(start + block, len(order))
        errors, columns = _round_block(moved, rounded, slice(start, end), to_grid, passed_on, own)
        moved[:, end:] += errors @ passed_on[start:end, end:] + columns @ own[start:end, end:]
    return torch.empty_like(rounded).index_copy_(1, order, rounded)


def _round_block(
    moved: Tensor, rounded: Tensor, block: slice, to_grid: Round, passed_on: Tensor, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Round the columns of `block`; return their errors and what they were just before, ``(O, n)`` each."""
    columns = moved[:, block].clone()
    errors, passed_on, own = torch.empty_like(columns), passed_on[block, block], own[block, block]
    for i in range(columns.shape[1]):
        column = columns[:, i].clone()
        found = to_grid(column[:, None])[:, 0]
        errors[:, i] = column - found
        rounded[:, block.start + i] = found
        columns[:, i + 1 :] += torch.outer(errors[:, i], passed_on[i, i + 1 :]) + torch.outer(column, own[i, i + 1 :])
    return errors, columns
