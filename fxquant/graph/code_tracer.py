"""The tracer that reads the code of a pickled graph."""

from __future__ import annotations

from torch import fx

from fxquant import ops


class CodeTracer(fx.Tracer):
    """Read the code of a pickled graph: what it does with buffers, and the operators of `fxquant.ops`, are nodes again."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(getattr(ops, name) for name in ops.__all__))
