"""Which files of a folder are images, and which of them can be read here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, features

# Endings of formats that Pillow decodes; those behind a library of their own are left out where it was built without.
_DECODED = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
    ),
    *(".webp", ".gif", ".avif", ".jp2", ".j2k", ".jpx", ".tga", ".qoi", ".pcx"),
)
_LIBRARIES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
# Endings of images that Pillow has no decoder for, or would only give a preview of.
_FOREIGN = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".psd", ".exr", ".hdr", ".dcm", ".nii"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)


_SHOWN = 8


def _is_decoded(ending: str) -> bool:
    name = Image.registered_extensions().get(ending)
    return name in Image.OPEN and (name not in _LIBRARIES or bool(features.check(_LIBRARIES[name])))


IMG_EXTENSIONS = tuple(filter(_is_decoded, _DECODED))
"""Endings, in lower case, of the files that are taken for images."""

_UNREAD = tuple(ending for ending in (*_DECODED, *_FOREIGN) if ending not in IMG_EXTENSIONS)


def is_image(name: str) -> bool:
    """Say whether a file of this name is taken for an image."""
    return name.lower().endswith(IMG_EXTENSIONS)


def count_left_out(files: Iterable[Path]) -> Counter[str]:
    """Return how many of `files` are not taken for images, by ending."""
    return Counter(file.suffix.lower() for file in files if not is_image(file.name))


def describe_left_out(counts: Counter[str]) -> str:
    """Return a phrase such as ``"2 images that cannot be read here (2 .heic): convert them to .png or .jpg"``."""
    images = Counter({ending: count for ending, count in counts.items() if ending in _UNREAD})
    others = counts - images
    told = []
    if images:
        told.append(
            f"{_count(images, 'image')} that cannot be read here ({_listed(images)}): convert them to .png or .jpg"
        )
    if others:
        told.append(f"{_count(others, 'file')} of other formats ({_listed(others)})")
    return "; ".join(told)


def _count(counts: Counter[str], name: str) -> str:
    return f"1 {name}" if counts.total() == 1 else f"{counts.total()} {name}s"


def _listed(counts: Counter[str]) -> str:
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(found) - _SHOWN} more endings" if len(found) > _SHOWN else ""
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in found[:_SHOWN]) + more
