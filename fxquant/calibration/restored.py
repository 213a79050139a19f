"""What calibration leaves behind where it does not end well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx

from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder


@contextmanager
def restored_on_failure(prepared: fx.GraphModule) -> Iterator[None]:
    """Give the observers back what they held where the block does not end well."""
    observers = [m for m in prepared.modules() if isinstance(m, Observer | InputRecorder)]
    modules = [m for observer in observers for m in observer.modules()]  # an observer of torch.ao is within ours
    before = [(m, {name: b.clone() for name, b in m.named_buffers(recurse=False)}) for m in modules]
    try:
        yield
    except BaseException:
        for module, buffers in before:
            for name, buffer in buffers.items():
                module._buffers[name] = buffer
        raise
