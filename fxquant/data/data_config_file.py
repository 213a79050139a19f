"""Data configs as JSON: fxquant's own, timm's ``config.json`` and Hugging Face's ``preprocessor_config.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxquant.errors import InputError

# Of Pillow, by which Hugging Face's files say how images are resized.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TIMM = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_BYTE = 1 / 255
# The processors of Hugging Face whose files mean what is read here; others resize or normalise by rules of their own.
_PROCESSORS = re.compile(r"(ViT|DeiT|Beit|CLIP|Siglip|Bit|ConvNext)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")


def read_data_config(text: str) -> dict[str, Any]:
    """
    Return the values of a data config that `text` holds as JSON, or the file of that name, for `DataConfig.changed`.

    Raises `InputError` where there is no such file, no JSON object in it, or a preprocessing that no data config describes.
    """
    name = text if len(text) <= 40 else f"{text[:37]}..."
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"--data-config: expected JSON or a file of it, cannot read {name!r}: {error}") from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"--data-config: {name!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"--data-config: expected a JSON object in {name!r}, found a {type(found).__name__}")
    if "image_mean" in found or "image_processor_type" in found or "feature_extractor_type" in found:
        return _of_processor(found)
    if isinstance(found.get("pretrained_cfg"), Mapping):
        published = found["pretrained_cfg"]
        return {key: published[key] for key in _TIMM if published.get(key) is not None}
    return found


def _of_processor(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a ``preprocessor_config.json`` stands for."""
    processor = found.get("image_processor_type") or found.get("feature_extractor_type") or "ViTImageProcessor"
    if not isinstance(processor, str) or not _PROCESSORS.fullmatch(processor):
        raise InputError(
            f"--data-config: a {processor} prepares images by rules of its own: give --img-size, --mean, --std, --crop-pct and "
            "--interpolation instead, and compare"
        )
    if not found.get("do_rescale", True) or not math.isclose(found.get("rescale_factor", _BYTE), _BYTE, rel_tol=1e-3):
        raise InputError(
            f"--data-config: expected pixels that are divided by 255, found rescale_factor {found.get('rescale_factor')}: "
            "give --mean and --std that do the same"
        )
    if not found.get("do_resize", True):
        raise InputError("--data-config: expected images that are resized, found do_resize false: give --img-size")
    mean = found.get("image_mean")
    values = _sizes(found, len(mean) if isinstance(mean, list) else 3)
    resampling = found.get("resample", 2)
    if resampling not in _RESAMPLING:
        raise InputError(f"--data-config: expected resample to be one of {list(_RESAMPLING)}, found {resampling!r}")
    values["interpolation"] = _RESAMPLING[resampling]
    normalised = found.get("do_normalize", True)
    return values | {"mean": mean if normalised else 0.0, "std": found.get("image_std") if normalised else 1.0}


def _sizes(found: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return size, crop_pct and crop_mode: images are resized to `size`, and `crop_size` is cut out."""
    size = found.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if found.get("do_center_crop", False):
        height, width = _edges(found.get("crop_size"))
        if shortest is None:
            resized, mode = _edges(size)[0], "squash"
        else:
            resized, mode = shortest, "center"
        return {"input_size": (channels, height, width), "crop_pct": height / resized, "crop_mode": mode}
    if shortest is None:
        return {"input_size": (channels, *_edges(size)), "crop_pct": 1.0, "crop_mode": "squash"}
    if found.get("crop_pct") is not None and shortest < 384:  # as ConvNeXt's processor does
        return {"input_size": (channels, shortest, shortest), "crop_pct": found["crop_pct"], "crop_mode": "center"}
    if found.get("crop_pct") is not None:
        return {"input_size": (channels, shortest, shortest), "crop_pct": 1.0, "crop_mode": "squash"}
    raise InputError(f"--data-config: images of any shape are resized to {size}, and not cropped: give --img-size")


def _edges(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    raise InputError(f"--data-config: expected a size of height and width, found {size!r}")
