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

    second: H, the mean of x^T x, ``(K, K)``. With ``H = L L^T``, L lower, an error d of the rows costs ``|d L|^2``. Columns
    are rounded from the last of L to the first, and column i, before it is, makes up for the errors of those behind it by
    ``W[:, i] -= sum_j d_j L_ji / L_ii``, for which term i of the cost is zero. act_order: begin with the columns of largest
    H_ii. block: how many columns wait before those that are left are brought up to date; the result does not depend on it.

    error: mean of (f - x)^T x, ``(K, K)``, with f what the float layer reads. GPTAQ (arXiv:2504.02692) aims at W f instead:
    column i also gets ``sum_j w_j P_ji / L_ii``, w_j as it was before it was rounded, ``P = asymmetry * tril(error L^-T, -1)``.
    """
    order = second.diagonal().argsort(descending=True, stable=True) if act_order else torch.arange(len(second))
    order = order.flip(0).to(second.device)
    factor = factor_damped(second[order][:, order], damping)
    passed_on = -factor / factor.diagonal()
    own = None
    if error is not None and asymmetry:
        own = torch.linalg.solve_triangular(factor.T, error[order][:, order], upper=True, left=False).tril_(-1)
        own *= asymmetry / factor.diagonal()
    wanted = weight.T[order]  # (K, O), so that what one column of the weight needs lies together
    moved, rounded, errors = wanted.clone(), torch.empty_like(wanted), torch.empty_like(wanted)
    for end in range(len(order), 0, -block):
        start = max(0, end - block)
        for i in reversed(range(start, end)):
            moved[i].addmv_(errors[i + 1 : end].T, passed_on[i + 1 : end, i])
            if own is not None:
                moved[i].addmv_(moved[i + 1 : end].T, own[i + 1 : end, i])
            rounded[i] = to_grid(moved[i, :, None])[:, 0]
            errors[i] = rounded[i] - wanted[i]
        moved[:start].addmm_(passed_on[start:end, :start].T, errors[start:end])
        if own is not None:
            moved[:start].addmm_(own[start:end, :start].T, moved[start:end])
    return torch.empty_like(rounded).index_copy_(0, order, rounded).T
