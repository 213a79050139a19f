"""Fake operators: what others give, as shapes and dtypes, where operands have no values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from fxquant.errors import InputError

Shapes = TypeVar("Shapes", bound=Callable[..., Any])


def register_fake(name: str) -> Callable[[Shapes], Shapes]:
    """
    Register a function as the fake operator `name`, such as ``"fxquant::cpu_pack"``.

    torch calls it where any operand is on the meta device. Beside one with values, it would give memory that nobody wrote:
    that raises `InputError`.
    """

    def register(shapes: Shapes) -> Shapes:
        @functools.wraps(shapes)
        def checked(*args: Any) -> Any:
            devices = {a.device.type for a in args if isinstance(a, Tensor)}
            if "meta" in devices and len(devices) > 1:
                found = " and ".join(sorted(devices))
                raise InputError(
                    f"expected operands that all have values, or that all have none, found some on {found}"
                )
            return shapes(*args)

        torch.library.register_fake(name, checked)
        return shapes

    return register
