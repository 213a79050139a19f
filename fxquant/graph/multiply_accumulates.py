"""How many multiply-accumulates a call computes, as torch's own counter of operations knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class MacCounter(TorchDispatchMode):
    """
    Count the multiply-accumulates of the matrix products and convolutions that run while it is active, into `total`.

    The formulas are those of ``torch.utils.flop_counter``, applied to each operator of ATen, however deep in Python functions
    it is called; what other libraries compute in their own kernels is not seen.
    """

    supports_higher_order_operators = True  # which call the operators inside them one by one

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func` and add what it computes."""
        kwargs = kwargs or {}
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        composite = torch.is_inference_mode_enabled() and func is not torch.ops.prim.device.default
        if formula is None and composite:  # inference mode hands out operators whole that others take apart
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result)) // 2
        return result
