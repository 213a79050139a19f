"""Two processes give what one does, and fail together."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from fxquant.distributed import (
    broadcast_module,
    first_then_others,
    from_first,
    initialise,
    interleave,
    launched,
    launched_as,
    own_device,
    rank,
    shard,
    sum_over_ranks,
    together,
    world_size,
)
from fxquant.errors import InputError
from tests.support.distributed_checks import CHECKS, WORLD, find_expected, work


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Return what failed on each rank, by check."""
    folder, threads = tmp_path_factory.mktemp("ranks"), torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks: the order of sums depends on it
    try:
        torch.save(find_expected(), folder / "expected.pt")
    finally:
        torch.set_num_threads(threads)
    spawn(work, (Path(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{number}.pt") for number in range(WORLD)]


@pytest.mark.parametrize("check", CHECKS)
def test_on_two_ranks(check: str, failures: list[dict[str, str]]) -> None:
    found = [f"rank {number}: {each[check]}" for number, each in enumerate(failures) if check in each]
    assert not found, "\n".join(found)


def test_one_process_is_rank_0_of_1() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert together(lambda: 3) == [3]
    assert first_then_others(lambda: 3) == 3
    assert from_first(lambda: 3) == 3
    assert shard([1, 2, 3]) == [1, 2, 3]
    tensor = torch.ones(2)
    assert sum_over_ranks(tensor).tolist() == [1, 1]
    module = nn.Linear(2, 2)
    before = copy.deepcopy(module.state_dict())
    broadcast_module(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with initialise("cpu") as device:
        assert device == torch.device("cpu")
        assert world_size() == 1


def test_the_environment_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launched_as() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert launched_as() == (2, 3)
    assert not launched()  # without an address there is no group to join


def test_shards_are_put_together_again() -> None:
    items = list(range(8))
    for count in (1, 2, 3, 9):
        assert interleave([items[i::count] for i in range(count)]) == items


def test_cuda_under_torchrun_is_the_gpu_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cuda") == torch.device("cuda")
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device("cuda") == torch.device("cuda", 1)
    assert own_device("cuda:3") == torch.device("cuda", 3)
    assert own_device("cpu") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="4 processes on this machine need a GPU each, found 2"):
        own_device("cuda")
