"""`export_onnx`: from a converted graph to a file that other runtimes read."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from dataclasses import asdict
from typing import Any

import torch
from torch import fx

from fxquant import pipeline
from fxquant.checkpoint.versions import library_versions
from fxquant.errors import InputError, UnsupportedGraphError, expect_path, reason_of
from fxquant.files import write_atomically
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import card_of, known_value, model_dtype, value_of
from fxquant.graph.shapes import Sizes, propagate_shapes, sizes_of
from fxquant.graph.stages import Stage, expect_converted
from fxquant.ops import check_input, quantize_float8, quantize_float8_tokens
from fxquant.version import __version__

OPSET, IR_VERSION = 20, 9  # the first with Gelu, and the first file format that has it
MOST_BYTES = 2**31 - 2**24  # of tensors in a protobuf message, which may have 2 GiB with all that it says of them


def export_onnx(gm: fx.GraphModule, path: str | os.PathLike[str]) -> None:
    """
    Write a converted graph to the ONNX file `path`, with QuantizeLinear and DequantizeLinear around its products.

    gm: from `fxquant.convert`, for either target, or from `fxquant.load`. Weights lie in the file as int8, with a scale per
    output channel. The batch size is free, and other sizes are those of the calibration. Inputs and outputs have the model's
    names, and the metadata hold the card of `gm`. The file is written under a temporary name and renamed.

    Raises `InputError` where the package onnx is missing, for a graph at another stage, of another dtype than float32 or of
    more than 2 GiB, and where the file cannot be written; `UnsupportedGraphError` naming the node that ONNX has no operator
    for.
    """
    target = expect_path(path)
    if importlib.util.find_spec("onnx") is None:
        raise InputError("export to ONNX needs the package onnx, which is not installed: pip install 'fxquant[onnx]'")
    data = _serialized(_standard_form(gm), gm)
    try:
        write_atomically(target, lambda name: _write(name, data))
    except OSError as error:
        raise InputError(f"{target}: the file cannot be written: {reason_of(error)}") from error


def _standard_form(gm: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of the graph in which products are those of torch, on the CPU."""
    expect_converted(gm, "export_onnx", Stage.QUANTISED, Stage.LOWERED)
    if model_dtype(gm) is not torch.float32:
        raise InputError(
            f"export_onnx expected a float32 model, found {model_dtype(gm)}: quantise the model in float32; runtimes choose "
            "the dtype of what is not int8"
        )
    for node in gm.graph.nodes:
        if node.target in (quantize_float8, quantize_float8_tokens):
            raise UnsupportedGraphError(
                f"node {node.name!r}: float8 codes are not written to ONNX, as runtimes on CPUs have no product of them; "
                'quantise with codes="int", the default'
            )
    return pipeline.run(copy.deepcopy(gm).cpu(), pipeline.SIMULATE, Stage.QUANTISED)


def _sizes(gm: fx.GraphModule) -> Sizes:
    """Return the sizes in a graph whose inputs keep those of its example, but for the batch; write the value of each node."""
    for node in gm.graph.find_nodes(op="call_function", target=check_input):
        x, shape, name = node.args
        known = value_of(x)
        if known is not None:
            node.args = (x, (*shape[:1], *known.shape[1:]), name)
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    sizes = sizes_of(gm) if all(value_of(n) is not None for n in inputs) else None
    if sizes is None:
        raise UnsupportedGraphError(
            "export_onnx expected a graph that takes batches of any size: prepare the model with an example of its input"
        )
    propagate_shapes(gm, [torch.empty_like(known_value(n), device="cpu") for n in inputs])
    return sizes


def _serialized(gm: fx.GraphModule, original: fx.GraphModule) -> bytes:
    import onnx

    from fxquant.onnx_export.translate_graph import translate

    card = card_of(original)
    graph = translate(gm, _sizes(gm), card.model or "model")
    size = sum(len(tensor.raw_data) for tensor in graph.initializer)
    if size > MOST_BYTES:
        raise InputError(
            f"expected tensors of less than 2 GiB, which is what one ONNX file can hold, found {size} bytes"
        )
    model = onnx.helper.make_model(
        graph,
        producer_name="fxquant",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    onnx.helper.set_model_props(model, metadata(card))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def metadata(card: ModelCard) -> dict[str, str]:
    """Return what the file says of the model, by key: texts, and JSON where a part of the card is more than a text."""
    facts: dict[str, Any] = {
        "model": card.model,
        "data_config": None if card.data_config is None else asdict(card.data_config),
        "num_classes": card.num_classes,
        "class_names": list(card.class_names) or None,
        "recipe": None if card.recipe is None else str(card.recipe),
        "accuracy": None if card.accuracy is None else str(card.accuracy),
        "versions": dict(card.versions or library_versions()),
    }
    return {
        f"fxquant.{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in facts.items()
        if value is not None
    }


def _write(name: str, data: bytes) -> None:
    with open(name, "wb") as file:
        file.write(data)
