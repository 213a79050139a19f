"""Photographs that come in the wheels of scikit-image and scikit-learn, in random crops as a pretrained ViT takes them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import v2

from bench.real.settings import SPLITS
from fxquant.errors import InputError

_SKIMAGE, _SKLEARN = ("skimage", "data"), ("sklearn", "datasets", "images")
CALIBRATION = "calibration"
# No photograph is in two groups. Each group has things, a surface and something seen through an instrument.
PHOTOGRAPHS = {
    CALIBRATION: ("camera.png", "china.jpg", "coffee.png", "gravel.png", "moon.png", "motorcycle_left.png"),
    SPLITS[0]: ("chelsea.png", "clock_motion.png", "coins.png", "grass.png", "retina.jpg", "rocket.jpg"),
    SPLITS[1]: ("astronaut.png", "brick.png", "flower.jpg", "hubble_deep_field.jpg", "ihc.png"),
}
_OF_SKLEARN = ("china.jpg", "flower.jpg")
_CROP_AREA = (0.15, 0.8)  # of the photograph


def load_photographs(group: str, px: int, count: int, seed: int = 0) -> Tensor:
    """
    Return `count` crops ``(count, 3, px, px)`` of the photographs of a group in turn, float32 and normalised.

    Raises
    ------
    InputError
        If there is no such group, or a package with its photographs is not installed.
    """
    if group not in PHOTOGRAPHS:
        raise InputError(f"unknown group {group!r}: expected one of {', '.join(PHOTOGRAPHS)}")
    photographs = [_open(name) for name in PHOTOGRAPHS[group]]
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(px, scale=_CROP_AREA),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([crop(photographs[index % len(photographs)]) for index in range(count)]).as_subclass(Tensor)


def _open(name: str) -> Image.Image:
    package, *folders = _SKLEARN if name in _OF_SKLEARN else _SKIMAGE
    spec = find_spec(package)  # finds the folder; imports nothing
    for root in spec.submodule_search_locations or () if spec else ():
        if (file := Path(root, *folders, name)).is_file():
            return Image.open(file).convert("RGB")
    raise InputError(f"expected the photograph {name} in the package {package}, found none: pip install fxquant[real]")
