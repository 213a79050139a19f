"""A call that torch does not compile; a module of its own, as `torch.compiler.disable` imports all of torch's compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def uncompiled(function: Callable[[Tensor], None], x: Tensor) -> None:
    """Call `function` on `x`."""
    function(x)
