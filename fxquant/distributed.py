"""
Several processes working on one task, by ``torch.distributed``; torchrun starts them.

Without a process group there is one rank, 0 of 1, and everything here does what one process would do.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from fxquant.errors import FxquantError, InputError, PassError, reason_of

T = TypeVar("T")

TIMEOUT = timedelta(hours=6)  # of one rank waiting for the others, which may have the larger part of the work
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TOLD = "_fxquant_told_to_rank"


def rank() -> int:
    """Return the number of this process in its group, 0 without one."""
    return dist.get_rank() if _grouped() else 0


def world_size() -> int:
    """Return how many processes the group has, 1 without one."""
    return dist.get_world_size() if _grouped() else 1


def launched() -> bool:
    """Say whether torchrun, or what sets the same environment, started this process."""
    return all(name in os.environ for name in _ENVIRONMENT)


def launched_as() -> tuple[int, int]:
    """Return the number of this process and how many there are, as the environment says; they need not be a group yet."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def own_device(device: torch.device | str) -> torch.device:
    """
    Return the device of this process: under torchrun "cuda" is the GPU of the local rank, anything else is as it is.

    Raises `InputError` where this machine has fewer GPUs than processes.
    """
    device = torch.device(device)
    if device.type != "cuda" or device.index is not None or not launched():
        return device
    processes, found = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > found:
        raise InputError(
            f"{processes} processes on this machine need a GPU each, found {found}: start no more than there are GPUs "
            "(torchrun --nproc-per-node)"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def resolve_device(name: torch.device | str) -> torch.device:
    """Return the device `name`, for "cuda" under torchrun that of the local rank; raise `InputError` where it is lacking."""
    try:
        device = own_device(name)
        torch.empty(1, device=device).tolist()  # which a device without values cannot
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InputError(f"device {str(name)!r} cannot be used: {reason_of(error)}") from error
    return device


def make_current(device: torch.device) -> None:
    """Let a GPU be the one that CUDA means where it is not told which."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextlib.contextmanager
def initialise(device: torch.device | str, timeout: timedelta = TIMEOUT) -> Iterator[torch.device]:
    """
    Join the processes that torchrun started for the length of the block, which is given `own_device`.

    Tensors on GPUs travel by nccl, all others by gloo. Without torchrun, or inside a group, the block runs as it is. Where it
    fails the group is left at once: torchrun then stops the other processes.
    """
    device = own_device(device)
    if not launched() or _grouped():
        yield device
        return
    make_current(device)
    _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def work_as_one(device: str, timeout: timedelta = TIMEOUT) -> Iterator[torch.device]:
    """`initialise` the processes of a command, of which rank 0 alone prints; raise as `resolve_device` does."""
    with initialise(resolve_device(device), timeout) as own, quiet_others():
        yield own


def together(run: Callable[[], T]) -> list[T]:
    """
    Call `run` on every rank and return what it gave on each, in order; results are pickled, tensors should be on the CPU.

    Where it fails on any rank, all of them raise the error of the first one that did, so that none is left waiting: itself if
    it is a `FxquantError`, else as one that names the rank.
    """
    if world_size() == 1:
        return [run()]
    results: list[T] = []
    failure: Exception | None = None
    try:
        results.append(run())
    except Exception as error:
        if is_told(error):
            raise
        failure = error
    gathered = gather_objects((results, _portable(failure)))
    for source, (_, told) in enumerate(gathered):
        if told is not None:
            raised = failure if failure is not None and source == rank() else told
            setattr(raised, _TOLD, rank())
            raise raised
    return [value for values, _ in gathered for value in values]


def is_told(error: BaseException) -> bool:
    """Say whether every rank raises this error."""
    return hasattr(error, _TOLD)


def is_repeated(error: BaseException) -> bool:
    """Say whether every rank raises this error and this one is not the first, which reports it."""
    return getattr(error, _TOLD, 0) != 0


def gather_objects(value: T) -> list[T]:
    """Return the `value` of every rank, in order; each is pickled, and tensors should be on the CPU."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def on_every_rank(run: Callable[[], T]) -> T:
    """Call `run` on every rank and return what it gave on this one, which is not sent; where it fails, all do as `together`."""
    made: list[T] = []
    together(lambda: made.append(run()))
    return made[0]


def from_first(run: Callable[[], T]) -> T:
    """
    Call `run` on rank 0 alone and return what it gave on every rank; it is pickled, and tensors should be on the CPU.

    Where it fails, all ranks raise its error as `together` does.
    """
    made: list[T] = []
    together(lambda: made.append(run()) if rank() == 0 else None)
    if world_size() == 1:
        return made[0]
    sent: list[Any] = made or [None]
    dist.broadcast_object_list(sent, 0)
    result: T = sent[0]
    return result


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of the `tensor` of every rank, all of one shape; the tensor itself stays as it is."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def broadcast_module(module: nn.Module) -> None:
    """Give all parameters and buffers of `module` the values that they have on rank 0; shapes must be equal."""
    if world_size() == 1:
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)


def refuse_different(module: nn.Module) -> None:
    """Raise `InputError` on every rank where `module` holds other parameters or buffers on any of them."""
    if world_size() == 1:
        return
    digests = gather_objects([_digest(t) for t in module.state_dict().values()])
    other = next((source for source, found in enumerate(digests) if found != digests[0]), None)
    if other is not None:
        raise InputError(
            f"ranks 0 and {other} hold different models: load the same weights on all of them, or call "
            "fxquant.distributed.broadcast_module(model) first"
        )


@overload
def shard(items: Sequence[T]) -> Sequence[T]: ...
@overload
def shard(items: Any) -> Any: ...
def shard(items: Any) -> Any:
    """
    Return every `world_size`-th item from that of this rank on.

    items: a sequence, or an object such as `fxquant.data.batches.ImageBatches` whose ``shard(rank, world_size)`` gives a
    part of it.
    """
    if world_size() == 1:
        return items
    own = getattr(items, "shard", None)
    return own(rank(), world_size()) if own is not None else items[rank() :: world_size()]


def interleave(shards: Sequence[Sequence[T]]) -> list[T]:
    """Return the items of all shards in the order in which `shard` dealt them out."""
    longest = max(map(len, shards), default=0)
    return [each[turn] for turn in range(longest) for each in shards if turn < len(each)]


def only_first(run: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call `run` on rank 0 alone, as for printing and for writing files."""
    if rank() == 0:
        run(*args, **kwargs)


def first_then_others(run: Callable[[], T]) -> T:
    """Call `run` on rank 0, then on the others, which may find in a cache what the first one made."""
    made: list[T] = []
    together(lambda: made.append(run()) if rank() == 0 else None)
    together(lambda: made.append(run()) if rank() > 0 else None)
    return made[0]


@contextlib.contextmanager
def quiet_others() -> Iterator[None]:
    """Let only rank 0 write to the standard output."""
    with contextlib.nullcontext() if rank() == 0 else contextlib.redirect_stdout(io.StringIO()):
        yield


def _join(backend: str, timeout: timedelta) -> None:
    """Make the process group."""
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=timeout)
        return
    # torchrun keeps its store when it starts processes anew, with the addresses of those that are gone (PyTorch issue 135712).
    store, number, count = next(rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"restart {restarts}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _digest(tensor: Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).digest()


def _portable(error: Exception | None) -> FxquantError | None:
    """Return an error that can be sent to other processes."""
    if error is None or (isinstance(error, FxquantError) and not isinstance(error, PassError)):
        return error
    if isinstance(error, PassError):  # whose arguments pickle does not know
        return FxquantError(str(error))
    return FxquantError(f"rank {rank()} failed: {type(error).__name__}: {error}")
