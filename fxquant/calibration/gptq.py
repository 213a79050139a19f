"""GPTQ and GPTAQ: round weights column by column, each column making up for the errors of those before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxquant.calibration.moments import factor_damped

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
    inverse = torch.cholesky_inverse(factor_damped(second[order][:, order], damping))
    upper = torch.linalg.cholesky(inverse, upper=True)
    passed_on = -upper / upper.diagonal()[:, None]
    own = None
    if error is not None and asymmetry:
        own = asymmetry * (error[order][:, order] @ upper.T).triu(1) @ upper
    moved = weight.double()[
        :, order
    ].T.contiguous()  # (K, O), so that what one column of the weight needs lies together
    rounded = torch.empty_like(moved)
    for start in range(0, len(order), block):
        end = min(start + block, len(order))
        errors = torch.empty_like(moved[start:end])
        for i in range(start, end):
            rounded[i] = to_grid(moved[i, :, None])[:, 0]
            errors[i - start] = moved[i] - rounded[i]
            moved[i + 1 : end].addr_(passed_on[i, i + 1 : end], errors[i - start])
            if own is not None:
                moved[i + 1 : end].addr_(own[i, i + 1 : end], moved[i])
        moved[end:].addmm_(passed_on[start:end, end:].T, errors)
        if own is not None:
            moved[end:].addmm_(own[start:end, end:].T, moved[start:end])
    return torch.empty_like(rounded).index_copy_(0, order, rounded).T
