"""The server of `examples/serve`: every request gets its own answer, or is refused in words."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fxquant
from bench.robustness.subjects import SIZE, int8_model
from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.data import read_images

pytest.importorskip("starlette", reason="needs starlette: pip install 'fxquant[serve]'")
pytest.importorskip("httpx2", reason="starlette's TestClient needs httpx2: pip install 'fxquant[test]'")

from starlette.testclient import TestClient

from examples.serve import server
from examples.serve.server import Batcher, create_app


class Recorded(nn.Module):
    """Twice what it is given, once it may; it notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.may = threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        if self.sizes and len(x) > 1 and x.min() < 0:
            raise ValueError("negative")
        if len(self.sizes) >= 3:  # after the first calls, of `start`
            assert self.may.wait(30)
        self.sizes.append(len(x))
        return 2 * x


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    made = Batcher(Recorded(), most=4, wait=0.2, places=6)
    made.start(torch.zeros(1))
    yield made
    made.model.may.set()  # type: ignore[attr-defined]
    made.stop()
    assert not made.thread.is_alive()


def refuse(_: Tensor) -> Tensor:
    raise RuntimeError("expected a wider image")


class TestBatcher:
    def test_it_is_called_for_one_two_and_most_before_it_serves(self, batcher: Batcher) -> None:
        assert batcher.model.sizes == [1, 2, 4]  # type: ignore[attr-defined]
        assert (batcher.batches, batcher.images) == (0, 0)

    def test_what_waits_becomes_batches_of_at_most_so_many(self, batcher: Batcher) -> None:
        futures = [batcher.submit(torch.full((1,), float(value))) for value in range(6)]
        batcher.model.may.set()  # type: ignore[attr-defined]
        assert [int(future.result(30)) for future in futures] == [0, 2, 4, 6, 8, 10]
        assert max(batcher.model.sizes) <= 4  # type: ignore[attr-defined]
        assert sum(batcher.model.sizes[3:]) == batcher.images == 6  # type: ignore[attr-defined]

    def test_too_many_are_refused_and_the_others_answered_before_it_stops(self, batcher: Batcher) -> None:
        futures, refused = [], 0
        for value in range(20):
            try:
                futures.append(batcher.submit(torch.full((1,), float(value))))
            except queue.Full:
                refused += 1
        assert 6 <= len(futures) <= 10  # those that the thread has taken wait no more
        assert refused
        batcher.model.may.set()  # type: ignore[attr-defined]
        batcher.stop()
        assert all(future.done() and not future.exception() for future in futures)
        batcher.stop = lambda: None  # type: ignore[method-assign]

    def test_an_error_of_the_model_is_that_of_its_requests(self, batcher: Batcher) -> None:
        batcher.model.may.set()  # type: ignore[attr-defined]
        futures = [batcher.submit(torch.full((1,), -1.0)) for _ in range(2)]
        with pytest.raises(ValueError, match="negative"):
            futures[0].result(30)
        assert int(batcher.submit(torch.ones(1)).result(30)) == 2

    def test_what_is_no_longer_wanted_is_left_out(self, batcher: Batcher) -> None:
        futures = [batcher.submit(torch.full((1,), float(value))) for value in range(5)]
        assert futures[4].cancel(), "it waits for the batch of the first four"
        batcher.model.may.set()  # type: ignore[attr-defined]
        assert [int(future.result(30)) for future in futures[:4]] == [0, 2, 4, 6]
        assert int(batcher.submit(torch.ones(1)).result(30)) == 2
        assert batcher.images == 5

    def test_a_model_that_does_not_run_ends_the_start(self) -> None:
        with pytest.raises(RuntimeError, match="expected a wider image"):
            Batcher(refuse, 4, 0, 4).start(torch.zeros(1))


def png(seed: int) -> bytes:
    pixels, file = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Any = int8_model("minmax")
    made.data_config = fxquant.DataConfig((3, SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
    made.class_names = [f"class {number}" for number in range(10)]
    path: Path = tmp_path_factory.mktemp("serve") / "model.safetensors"
    fxquant.save(made, path)
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> StagedGraph:
    return fxquant.load(file)


def offline(model: nn.Module, gm: StagedGraph, image: bytes) -> list[float]:
    assert gm.data_config is not None
    with torch.no_grad():
        probabilities: list[float] = model(read_images([io.BytesIO(image)], gm.data_config)).softmax(1)[0].tolist()
    return probabilities


def check_answer(answer: Any, wanted: list[float]) -> None:
    assert answer.status_code == 200, answer.text
    found = answer.json()["classes"]
    assert [each["name"] for each in found] == [f"class {each['index']}" for each in found]
    assert found[0]["probability"] == pytest.approx(max(wanted), abs=1e-5)
    assert [each["probability"] for each in found] == pytest.approx([wanted[e["index"]] for e in found], abs=1e-5)


class TestEager:
    """What needs no compiled model."""

    @pytest.fixture
    def client(self, file: Path) -> Iterator[TestClient]:
        compiled = fxquant.compile(file)
        compiled.compiled = compiled.graph_module
        with TestClient(create_app(compiled, top_k=3)) as client:
            yield client

    def test_an_image_is_answered_with_its_classes(self, client: TestClient, model: StagedGraph) -> None:
        check_answer(client.post("/predict", content=png(0)), offline(model, model, png(0)))
        health = client.get("/healthz")
        assert (health.status_code, health.json()) == (200, {"batches": 1, "images": 1})

    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            (b"", 400, "in no format of images"),
            (b"no image", 400, "in no format of images"),
            (png(0)[:900], 400, "cannot read the image"),
            (b"x" * (server.LARGEST + 1), 413, "at most 16777216 bytes"),
        ],
        ids=["nothing", "text", "cut off", "too large"],
    )
    def test_what_is_no_image_is_refused(self, client: TestClient, body: bytes, status: int, words: str) -> None:
        answer = client.post("/predict", content=body)
        assert answer.status_code == status
        assert words in answer.json()["error"]
        assert "0x" not in answer.text

    def test_a_full_queue_is_503(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: Tensor) -> None:
            raise queue.Full

        monkeypatch.setattr(client.app.state.batcher, "submit", full)  # type: ignore[attr-defined]
        answer = client.post("/predict", content=png(0))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "try again later" in answer.json()["error"]

    def test_other_paths_and_methods(self, client: TestClient) -> None:
        assert client.get("/predict").status_code == 405
        assert client.get("/other").json() == {"error": "Not Found"}


def test_a_file_without_a_data_config_is_refused() -> None:
    with pytest.raises(fxquant.InputError, match=r"save it with gm\.data_config set"):
        create_app(fxquant.compile(int8_model("minmax")))


@pytest.mark.long
def test_the_compiled_model_is_compiled_at_the_start_alone(file: Path, model: StagedGraph) -> None:
    torch._dynamo.reset()
    images = [png(seed) for seed in range(40)]
    with TestClient(create_app(fxquant.compile(file), most=8, top_k=3)) as client, ThreadPoolExecutor(16) as pool:
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        answers = list(pool.map(lambda image: client.post("/predict", content=image), images))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
        seen = client.get("/healthz").json()
    assert seen["images"] == len(images)
    assert seen["batches"] < len(images), "some ran together"
    for answer, image in zip(answers, images, strict=True):
        check_answer(answer, offline(model, model, image))
