"""
What the server of ``examples/serve`` does under load: an int8 model beside the same in bfloat16 under torch.compile.

``python -m bench.serving`` starts a server of each, drives them in turn by clients of which each asks again as soon as it has
its answer, compares every answer with what the model says offline, and writes ``bench/results/serving.json`` and the table in
docs/serving.md. The clients need a part of the processor. It takes minutes for a model; let it run alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.harness.results import Row, RowsFile
from bench.serving.client import Answer, drive
from bench.serving.forms import FORMS, make_images, predict_offline, write_model
from bench.serving.measure import refuse_alike, summarise
from bench.serving.process import Server, serving
from bench.tables import write_pages


def main() -> None:
    """Measure the models and numbers of clients that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deit_small_patch16_224", "vit_base_patch16_224"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=200, help="to each server, in each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-wait", type=float, default=5, metavar="MS")
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = {"threads": options.threads, "max_batch": options.max_batch, "max_wait_ms": options.max_wait}
    versions = {"versions": {name: version(name) for name in ("starlette", "uvicorn")}}
    file = RowsFile("serving", ("model", "clients"), facts | versions)
    for model in options.models:
        for row in measure_model(model, options):
            print(row, flush=True)
            if not options.dry:
                file.add(row)
    if not options.dry:
        write_pages()


def measure_model(model: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each number of clients."""
    images = make_images()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = {form: write_model(model, form, Path(folder)) for form in FORMS}
        offline = {form: predict_offline(file, images) for form, file in files.items()}
        for probabilities in offline.values():
            refuse_alike(probabilities)
        limits = (options.threads, options.max_batch, options.max_wait)
        servers = {form: stack.enter_context(serving(file, *limits)) for form, file in files.items()}
        for clients in options.clients:
            yield _row(model, servers, offline, images, clients, options)


def _row(
    model: str,
    servers: Mapping[str, Server],
    offline: Mapping[str, Tensor],
    images: Sequence[bytes],
    clients: int,
    options: argparse.Namespace,
) -> Row:
    before = {form: server.seen() for form, server in servers.items()}
    answers: dict[str, list[Answer]] = {form: [] for form in servers}
    seconds = dict.fromkeys(servers, 0.0)
    for _ in range(options.rounds):
        for form, server in servers.items():
            start = time.perf_counter()
            answers[form] += drive(server.port, images, clients, options.requests)
            seconds[form] += time.perf_counter() - start
    results: dict[str, Any] = {}
    for form, server in servers.items():
        batches, seen = (now - then for now, then in zip(server.seen(), before[form], strict=True))
        found = summarise(answers[form], seconds[form], options.rounds * options.requests, offline[form])
        beside = {"images_per_batch": seen / max(batches, 1), "start_seconds": round(server.start_seconds, 1)}
        results[form] = found | {"seen": seen} | beside
    return {"model": model, "clients": clients, "load": round(os.getloadavg()[0], 1), "results": results}


if __name__ == "__main__":
    main()
