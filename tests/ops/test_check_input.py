"""`check_input` names the shape that was expected."""

from __future__ import annotations

import pytest
import torch

from fxquant import InputError
from fxquant.ops import check_input

SHAPE = (None, 3, 8, None)


def test_gives_back_what_fits() -> None:
    x = torch.zeros(5, 3, 8, 2)
    assert check_input(x, SHAPE, "x") is x


@pytest.mark.parametrize("shape", [(5, 3, 8), (5, 4, 8, 2), (5, 3, 9, 2), (5, 3, 8, 2, 1)])
def test_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"input 'x': expected shape \(\*, 3, 8, \*\).* found \(5, "):
        check_input(torch.zeros(shape), SHAPE, "x")


@pytest.mark.parametrize("x", [None, "x", [torch.zeros(5, 3, 8, 2)], torch.zeros(5, 3, 8, 2).numpy()])
def test_refuses_what_is_no_tensor(x: object) -> None:
    with pytest.raises(InputError, match=f"input 'x': expected a torch.Tensor, found {type(x).__name__}"):
        check_input(x, SHAPE, "x")  # type: ignore[arg-type]


def test_is_compiled_without_a_break() -> None:
    compiled = torch.compile(lambda x: check_input(x, SHAPE, "x") + 1, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(5, 3, 8, 2)).eq(1).all()
