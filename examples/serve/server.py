"""
Serve a saved classifier over HTTP. Images come one by one, and the model runs on batches of those that wait.

    pip install -e '.[serve]'
    python examples/serve/server.py own.safetensors --port 8000
    curl --data-binary @a.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from torch import Tensor

import fxquant
from fxquant.compiling.compile import CompiledGraph
from fxquant.data import read_images
from fxquant.graph.meta import model_dtype

LARGEST = 16 * 2**20  # bytes of a request
Waiting = tuple[Tensor, "Future[Tensor]"]


class Batcher:
    """
    Runs a model on batches of the images that wait for it, on a thread of its own.

    most: how many images a batch may have. wait: the seconds that its first image waits for others. places: how many images
    may wait. batches, images: how many the model has seen.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], most: int, wait: float, places: int) -> None:
        self.model, self.most, self.wait = model, most, wait
        self.batches = self.images = 0
        self._waiting: queue.Queue[Waiting | None] = queue.Queue(places)
        self.thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._ready: Future[None] = Future()

    def start(self, example: Tensor) -> None:
        """Compile the model for any number of images like `example` ``(C, H, W)``; raise what it raises."""
        self._example = example
        self.thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Answer those that wait, then end the thread."""
        self._waiting.put(None)
        self.thread.join()

    def submit(self, image: Tensor) -> Future[Tensor]:
        """Return what will hold the logits of an image ``(C, H, W)``; raise `queue.Full` where too many wait."""
        future: Future[Tensor] = Future()
        self._waiting.put_nowait((image, future))
        return future

    def _work(self) -> None:
        try:  # sizes of which torch compiles a graph each: one image, two, and then any number
            for size in sorted({1, min(2, self.most), self.most}):
                self.model(self._example.expand(size, *self._example.shape).contiguous())
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        while batch := self._gather():
            self._answer(batch)

    def _gather(self) -> list[Waiting]:
        """Return the next batch, empty after `stop`."""
        batch: list[Waiting] = []
        end = math.inf
        while len(batch) < self.most:
            try:
                waiting = self._waiting.get(timeout=max(0.0, end - time.monotonic()) if batch else None)
            except queue.Empty:
                break
            if waiting is None:
                if batch:
                    self._waiting.put(None)  # for the next time
                break
            end = end if batch else time.monotonic() + self.wait
            batch.append(waiting)
        return batch

    def _answer(self, batch: list[Waiting]) -> None:
        batch = [waiting for waiting in batch if waiting[1].set_running_or_notify_cancel()]
        if not batch:
            return
        self.batches, self.images = self.batches + 1, self.images + len(batch)
        try:
            rows = self.model(torch.stack([image for image, _ in batch]))
        except Exception as error:  # is that of each request
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), row in zip(batch, rows, strict=True):
            future.set_result(row)


def create_app(model: CompiledGraph, most: int = 8, wait: float = 0.005, places: int = 64, top_k: int = 5) -> Starlette:
    """Return the application that serves a compiled classifier; most, wait and places are those of `Batcher`."""
    config = model.card.data_config
    if config is None:
        raise fxquant.InputError("the model does not say how images are prepared: save it with gm.data_config set")
    example = torch.zeros(config.input_size, dtype=model_dtype(model.graph_module))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher = Batcher(model, most, wait, places)
        await asyncio.to_thread(batcher.start, example)
        # Images are decoded beside the model, on one thread each, as each thread would have OpenMP threads of its own.
        with ThreadPoolExecutor(2, "decode", torch.set_num_threads, (1,)) as decoders:
            app.state.model, app.state.batcher, app.state.decoders, app.state.top_k = model, batcher, decoders, top_k
            yield  # until all requests are answered
            await asyncio.to_thread(batcher.stop)

    routes = [Route("/predict", predict, methods=["POST"]), Route("/healthz", healthz)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: refuse})


async def predict(request: Request) -> JSONResponse:
    """Answer with the likeliest classes of the image that is the body of the request."""
    state, body = request.app.state, bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise HTTPException(413, f"expected an image of at most {LARGEST} bytes")
    loop, card, dtype = asyncio.get_running_loop(), state.model.card, model_dtype(state.model.graph_module)
    try:
        images = await loop.run_in_executor(state.decoders, read_images, [io.BytesIO(body)], card.data_config)
    except fxquant.InputError as error:
        raise HTTPException(400, str(error)) from error
    try:
        future = state.batcher.submit(images[0].to(dtype))
    except queue.Full as error:
        raise HTTPException(503, "too many images wait: try again later", {"Retry-After": "1"}) from error
    logits, names = await asyncio.wrap_future(future), card.class_names
    best = logits.float().softmax(0).topk(min(state.top_k, len(logits)))
    classes = [
        {"index": index, "name": names[index] if names else None, "probability": probability}
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return JSONResponse({"classes": classes})


async def healthz(request: Request) -> JSONResponse:
    """Say whether the model runs, and how many batches and images it has seen."""
    batcher = request.app.state.batcher
    seen = {"batches": batcher.batches, "images": batcher.images}
    return JSONResponse(seen, 200 if batcher.thread.is_alive() else 503)


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer with the reason as JSON."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def main() -> None:
    """Serve until a signal comes; what was asked before it is answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="of fxquant.save, with a data config")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument(
        "--max-wait", type=float, default=5, metavar="MS", help="that an image waits for others (%(default)s)"
    )
    parser.add_argument("--queue", type=int, default=64, help="images that may wait; more are refused (%(default)s)")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the model")
    o = parser.parse_args()
    if o.threads is not None:
        torch.set_num_threads(o.threads)
    try:
        app = create_app(fxquant.compile(o.file), o.max_batch, o.max_wait / 1e3, o.queue, o.top_k)
    except fxquant.FxquantError as error:
        parser.error(str(error))
    uvicorn.run(app, host=o.host, port=o.port, log_level="warning", timeout_graceful_shutdown=30)


if __name__ == "__main__":
    main()
