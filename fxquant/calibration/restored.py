"""What calibration leaves behind where it does not end well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, fx, nn

from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder

Held = list[tuple[nn.Module, dict[str, Tensor]]]  # observers, and what is within them, with their buffers


def held(prepared: fx.GraphModule) -> Held:
    """Return what the observers hold."""
    observers = [m for m in prepared.modules() if isinstance(m, Observer | InputRecorder)]
    modules = [m for observer in observers for m in observer.modules()]  # an observer of torch.ao is within ours
    return [(m, {name: b.clone() for name, b in m.named_buffers(recurse=False)}) for m in modules]


def put_back(before: Held) -> None:
    """Let the observers hold what `held` returned."""
    for module, buffers in before:
        module._buffers.update(buffers)


@contextmanager
def restored_on_failure(prepared: fx.GraphModule) -> Iterator[None]:
    """Give the observers back what they held where the block does not end well."""
    before = held(prepared)
    try:
        yield
    except BaseException:
        put_back(before)
        raise
