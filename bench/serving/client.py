"""Clients of the server: each asks again as soon as it has its answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """
    What became of one request.

    image: the number of the image that was sent. status: of HTTP, 0 where the connection broke. body: what was answered, as
    JSON gives it, or the error.
    """

    image: int
    seconds: float
    status: int
    body: Any


def drive(port: int, images: Sequence[bytes], clients: int, requests: int) -> list[Answer]:
    """Send so many `requests`, the `images` in turn, by `clients` at once; return one answer for each."""
    return asyncio.run(_drive(port, images, clients, requests))


async def _drive(port: int, images: Sequence[bytes], clients: int, requests: int) -> list[Answer]:
    numbers = iter(range(requests))
    answers = await asyncio.gather(*(_client(port, images, numbers) for _ in range(clients)))
    return list(itertools.chain.from_iterable(answers))


async def _client(port: int, images: Sequence[bytes], numbers: Iterator[int]) -> list[Answer]:
    """Send images over one connection, and over another one where it breaks, until all `numbers` are taken."""
    answers, connection = [], None
    for number in numbers:
        image, start = number % len(images), time.perf_counter()
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            status, body = await _ask(*connection, "POST /predict", images[image])
        except (OSError, EOFError, ValueError) as error:
            connection, status, body = None, 0, repr(error)
        answers.append(Answer(image, time.perf_counter() - start, status, body))
    if connection:
        connection[1].close()
    return answers


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str, content: bytes = b""
) -> tuple[int, Any]:
    writer.write(f"{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), json.loads(await reader.readexactly(int(fields["content-length"])))


def health(port: int) -> dict[str, int] | None:
    """Return what the server says of itself, None where none listens yet."""

    async def ask() -> Any:
        connection = await asyncio.open_connection("127.0.0.1", port)
        found = await _ask(*connection, "GET /healthz")
        connection[1].close()
        return found

    try:
        status, body = asyncio.run(ask())
    except OSError:
        return None
    return body if status == 200 else None
