"""Stand-ins for pretrained models: small transformers that read glyphs, where accuracy can be measured offline."""

from bench.standins.architectures import STANDINS, build_standin, load_standin
from bench.standins.glyphs import CHARACTERS, CLASSES, IMAGE_SIZE, Glyphs, load_part
from bench.standins.outliers import Outliers, inject_outliers

__all__ = [
    "CHARACTERS",
    "CLASSES",
    "IMAGE_SIZE",
    "STANDINS",
    "Glyphs",
    "Outliers",
    "build_standin",
    "inject_outliers",
    "load_part",
    "load_standin",
]
