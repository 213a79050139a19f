"""The load test counts every request once, and takes no answer for that of another image."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest
import torch

from bench.serving.client import Answer, drive
from bench.serving.forms import make_images
from bench.serving.measure import difference, refuse_alike, summarise
from bench.serving.table import serving
from fxquant.measurement.environment import describe_environment

OFFLINE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])


def answer(image: int, status: int = 200, best: int = 0) -> Answer:
    order = OFFLINE[best].argsort(descending=True).tolist()
    classes = [{"index": index, "probability": float(OFFLINE[best][index])} for index in order]
    return Answer(image, 0.01, status, {"classes": classes} if status == 200 else {"error": "full"})


def test_requests_are_counted_by_what_became_of_them() -> None:
    answers = [answer(0), answer(1, best=1), answer(1, best=0), answer(0, 503), answer(0, 0)]
    row = summarise(answers, seconds=2.0, requests=6, offline=OFFLINE)
    counts = {name: row[name] for name in ("requests", "answered", "refused", "failed", "lost", "wrong")}
    assert counts == {"requests": 6, "answered": 3, "refused": 1, "failed": 1, "lost": 1, "wrong": 1}
    assert (row["p50_ms"], row["requests_per_second"]) == (10.0, 1.5)


def test_the_difference_is_that_of_probabilities() -> None:
    body = answer(0).body
    assert difference(body, OFFLINE[0]) == pytest.approx(0, abs=1e-6)
    body["classes"][1]["probability"] = 0.22
    assert difference(body, OFFLINE[0]) == pytest.approx(0.1)
    assert difference(answer(1).body, OFFLINE[1]) > 0.8


def test_images_that_could_be_taken_for_one_another_are_refused() -> None:
    refuse_alike(OFFLINE)
    with pytest.raises(SystemExit, match="images 0 and 2 have nearly the same probabilities"):
        refuse_alike(torch.cat([OFFLINE, OFFLINE[:1]]))


@pytest.fixture
def echo() -> Iterator[int]:
    """Serve the length of what is sent, and break every fifth connection; yield the port."""
    loop, count = asyncio.new_event_loop(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            body = json.dumps(len(await reader.readexactly(length))).encode()
            count += 1
            if count % 5:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            else:
                writer.close()
                return

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda *_: None)  # connections that the client has closed
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result(30)
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_each_request_has_one_answer_also_where_connections_break(echo: int) -> None:
    images = [b"x" * size for size in range(1, 8)]
    answers = drive(echo, images, clients=3, requests=50)
    assert len(answers) == 50
    assert sum(each.status == 0 for each in answers) == 10
    assert all(each.body == each.image + 1 for each in answers if each.status == 200)
    assert sorted(each.image for each in answers) == sorted(number % 7 for number in range(50))


@pytest.mark.parametrize(("load", "said"), [(1.0, False), (100.0, True)])
def test_the_table_says_where_the_machine_was_busy(load: float, said: bool) -> None:
    result = summarise([answer(0), answer(1)], 1.0, 2, OFFLINE) | {"images_per_batch": 1.5}
    facts = {"threads": 2, "max_batch": 8, "max_wait_ms": 5.0, "versions": {"uvicorn": "1.0"}, "date": "2026-01-01"}
    row = {"model": "vit", "clients": 4, "load": load, "results": {"int8": result}}
    text = serving({**facts, "environment": describe_environment(), "rows": [row]})
    assert "| `vit` | 4 | int8 | 10 | 10 | 10 | 2.0 | 1.5 | 1 of 2 |" in text
    assert ("did other things" in text) is said


def test_no_two_images_are_alike() -> None:
    assert len(set(make_images(16, 32))) == 16
