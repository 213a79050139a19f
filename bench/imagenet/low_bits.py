"""What was published for ImageNet-1k at 6 bits and below, top-1 in percent, and the recipes for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.imagenet.figure import Figure, Model, Options, PublishedEvidence, Reference
from bench.imagenet.models import DEIT_B, DEIT_S, DEIT_T, SWIN_B, SWIN_S, VIT_B, VIT_B_AUGREG2, VIT_S

TABLE = "low_bits"
Row = tuple[float, ...]  # of the models that all papers have, in this order
_MODELS = (VIT_S, VIT_B, DEIT_T, DEIT_S, DEIT_B, SWIN_S, SWIN_B)
_FLOAT = {VIT_S: 81.39, VIT_B: 84.54, DEIT_T: 72.21, DEIT_S: 79.85, DEIT_B: 81.80, SWIN_S: 83.23, SWIN_B: 85.27}
_FLOAT |= {VIT_B_AUGREG2: 85.10}


@dataclass(frozen=True)
class _Method:
    """
    A published method. rows: its top-1 by bits. recipe: None where fxquant has none; options, published, images: see `Figure`.

    later: its ViT-B is taken for augreg2, see `_LATER`.
    """

    name: str
    source: str
    rows: dict[str, Row]
    recipe: str | None = None
    options: Options = ()
    published: Options | None = None
    images: int = 32
    later: bool = False
    evidence: PublishedEvidence = PublishedEvidence.SOURCE

    def figures(self) -> Iterator[tuple[str, Model, float]]:
        """Yield the bits, the model and the top-1 of each."""
        for bits, row in self.rows.items():
            for model, top1 in zip(_MODELS, row, strict=True):
                yield bits, VIT_B_AUGREG2 if self.later and model is VIT_B else model, top1


# AdaLog and what is made of its code ask timm 0.9 for "vit_base_patch16_224", whose weights are those of augreg2, and quote the
# accuracy of the older ones. AdaLog's own W6A6 is above that.
_LATER = "; its ViT-B is taken for augreg2, which the code loads, though the paper quotes 84.54"
_ATTENTION: Options = (("attention", True),)  # whose products all of them quantise
_PUBLISHED: Options = (("published", True),)
_ERQ = "the journal version of ERQ, 32 images"

_METHODS = (
    _Method(
        "RepQ-ViT",
        "README of github.com/zkkli/RepQ-ViT, 32 images",
        {
            "W6A6": (80.43, 83.62, 70.76, 78.90, 81.27, 82.79, 84.57),
            "W4A4": (65.05, 68.48, 57.43, 69.03, 75.61, 79.45, 78.32),
        },
        recipe="repq",
        options=_ATTENTION,
    ),
    _Method(
        "RepQ-ViT + GPTQ",
        _ERQ,
        {
            "W4A4": (67.59, 75.12, 58.96, 70.85, 76.10, 80.17, 81.08),
            "W3A4": (23.32, 44.63, 42.25, 48.95, 61.75, 66.71, 71.43),
        },
        recipe="gptq",
        options=(*_ATTENTION, ("folds", "reparameterize")),
        evidence=PublishedEvidence.QUOTED,
    ),
    _Method(
        "ERQ",
        _ERQ,
        {
            "W4A4": (71.61, 78.65, 61.79, 74.35, 79.18, 81.19, 83.32),
            "W3A4": (60.13, 72.37, 52.73, 69.09, 76.47, 78.12, 79.98),
        },
        recipe="erq",
        options=_ATTENTION,
        published=_PUBLISHED,
    ),
    _Method(
        "AdaLog",
        f"README of github.com/GoatWu/AdaLog, calibration alone, 32 images{_LATER}",
        {
            "W6A6": (80.91, 84.80, 71.38, 79.39, 81.55, 83.19, 85.09),
            "W4A4": (72.75, 79.68, 63.52, 72.06, 78.03, 80.77, 82.47),
            "W3A3": (13.88, 37.91, 31.56, 24.47, 57.45, 64.41, 69.75),
        },
        recipe="adalog",
        published=_PUBLISHED,
        later=True,
    ),
    _Method(
        "GLF-Q",
        f"GLF-Q (Sun et al., 2026), 1024 images, GELU replaced by ReLU{_LATER}",
        {
            "W4A4": (77.82, 83.22, 67.37, 77.34, 80.53, 82.01, 83.80),
            "W3A3": (67.40, 78.18, 56.48, 71.55, 77.20, 78.10, 80.45),
        },
        recipe="glfq",
        images=1024,
        later=True,
    ),
    _Method(
        "UQ-ViT",
        "UQ-ViT, from tables of later papers",
        {
            "W6A6": (80.71, 83.81, 71.17, 79.07, 81.45, 82.82, 84.99),
            "W4A4": (68.34, 72.07, 59.71, 72.13, 76.59, 79.93, 81.96),
        },
        evidence=PublishedEvidence.QUOTED,
    ),
    _Method(
        "I&S-ViT",
        "I&S-ViT (arXiv 2311.10126)",
        {
            "W6A6": (80.43, 83.82, 70.85, 79.15, 81.68, 82.89, 84.94),
            "W4A4": (74.87, 80.07, 65.21, 75.81, 79.97, 81.17, 82.60),
            "W3A3": (45.16, 63.77, 41.52, 55.78, 73.30, 74.20, 69.30),
        },
    ),
    _Method(
        "ERQ, first version",
        "ERQ (arXiv 2407.06794), 32 images",
        {"W4A4": (68.91, 76.63, 60.29, 72.56, 78.23, 80.74, 82.44)},
    ),
    _Method(
        "IGQ",
        "IGQ, from tables of later papers; its groups of channels depend on the input",
        {"W4A4": (73.61, 79.32, 62.45, 74.66, 79.23, 80.98, 83.14)},
        evidence=PublishedEvidence.QUOTED,
    ),
    _Method(
        "DopQ-ViT",
        "DopQ-ViT (arXiv 2408.03291)",
        {
            "W4A4": (75.69, 80.95, 65.54, 75.84, 80.13, 81.71, 83.34),
            "W3A3": (54.72, 65.76, 44.71, 59.26, 74.91, 74.77, 69.63),
        },
    ),
    _Method(
        "AdaLog, reconstructed",
        f"README of github.com/GoatWu/AdaLog, 1024 images{_LATER}",
        {
            "W4A4": (77.25, 83.13, 67.14, 76.36, 80.20, 81.99, 83.82),
            "W3A3": (62.50, 76.73, 48.78, 63.24, 74.99, 76.01, 78.82),
        },
        later=True,
    ),
    _Method(
        "APHQ-ViT",
        f"APHQ-ViT (arXiv 2504.02508), 1024 images, GELU replaced by ReLU{_LATER}",
        {
            "W4A4": (76.07, 82.41, 66.66, 76.40, 80.21, 81.81, 83.42),
            "W3A3": (63.17, 76.31, 55.42, 68.76, 76.31, 76.10, 78.14),
        },
        later=True,
    ),
    _Method(
        "FIMA-Q",
        f"FIMA-Q (arXiv 2506.11543), 1024 images, a scale for each token position{_LATER}",
        {
            "W4A4": (76.68, 83.04, 66.84, 76.87, 80.33, 81.82, 83.60),
            "W3A3": (64.09, 77.63, 55.55, 69.13, 76.54, 77.26, 78.82),
        },
        later=True,
    ),
    _Method(
        "LS-ViT",
        f"LS-ViT (CVPR 2026), from tables of later papers{_LATER}",
        {
            "W4A4": (76.67, 83.08, 67.05, 76.89, 80.41, 81.82, 83.62),
            "W3A3": (64.10, 77.65, 55.72, 69.41, 76.57, 77.39, 79.40),
        },
        later=True,
        evidence=PublishedEvidence.QUOTED,
    ),
)
_OWN = ("default", "dynamic", "rotate")  # which nobody published; with attention, as the methods beside them
_BITS = ("W8A8", "W6A6", "W4A4", "W3A4", "W3A3")


def low_bits() -> tuple[Figure, ...]:
    """Return the figures of all methods that fxquant has a recipe of, and of recipes that nobody published, by bits."""
    return tuple(sorted((*_published(), *_own()), key=lambda figure: _BITS.index(figure.bits)))


def _published() -> Iterator[Figure]:
    for each in _METHODS:
        for bits, model, top1 in each.figures() if each.recipe else ():
            yield Figure(
                TABLE,
                each.name,
                model,
                *_widths(bits),
                _FLOAT[model],
                top1,
                str(each.recipe),
                each.images,
                each.source,
                each.evidence,
                each.options + _turns(each.recipe, model),
                each.published,
            )


def _own() -> Iterator[Figure]:
    for bits in _BITS:
        for recipe in _OWN:
            for model, top1 in _FLOAT.items():
                options = _ATTENTION + _turns(recipe, model)
                name = f"fxquant's {recipe}"
                yield Figure(
                    TABLE,
                    name,
                    model,
                    *_widths(bits),
                    top1,
                    None,
                    recipe,
                    32,
                    "the papers",
                    options=options,
                    published=None,
                )


def _widths(bits: str) -> tuple[int, int]:
    return int(bits[1]), int(bits[3])


def _turns(recipe: str | None, model: Model) -> Options:
    """Return the option by which a Swin, whose residual stream cannot be turned, is turned within its heads alone."""
    return (("folds", "rotate_heads"),) if recipe in ("rotate", "glfq") and model in (SWIN_S, SWIN_B) else ()


REFERENCES = tuple(
    Reference(TABLE, each.name, model, bits, _FLOAT[model], top1, each.source, each.evidence)
    for each in _METHODS
    if each.recipe is None
    for bits, model, top1 in each.figures()
)
