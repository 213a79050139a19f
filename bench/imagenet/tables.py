"""What PTQ4ViT, NoisyQuant, FQ-ViT and PSAQ-ViT published for ImageNet-1k, top-1 in percent, and the recipes for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.imagenet.figure import Figure, Options, PublishedEvidence, Synthesis
from bench.imagenet.low_bits import low_bits
from bench.imagenet.models import (
    DEIT_B,
    DEIT_B_384,
    DEIT_S,
    DEIT_T,
    SWIN_B,
    SWIN_B_1K,
    SWIN_B_384,
    SWIN_S,
    SWIN_T,
    VIT_B,
    VIT_B_384,
    VIT_B_AUGREG2,
    VIT_L,
    VIT_S,
    VIT_S32,
)

# model, float, BasePTQ W8A8 and W6A6, PTQ4ViT W8A8 and W6A6
_PTQ4VIT = (
    (VIT_S32, 75.99, 73.61, 60.144, 75.582, 71.908),
    (VIT_S, 81.39, 80.468, 70.244, 81.002, 78.63),
    (VIT_B, 84.54, 83.896, 75.668, 84.25, 81.65),
    (VIT_B_384, 86.00, 85.352, 46.886, 85.828, 83.348),
    (DEIT_S, 79.80, 77.654, 72.268, 79.474, 76.282),
    (DEIT_B, 81.80, 80.946, 78.786, 81.482, 80.25),
    (DEIT_B_384, 83.11, 82.33, 68.442, 82.974, 81.55),
    (SWIN_T, 81.39, 80.962, 78.456, 81.246, 80.47),
    (SWIN_S, 83.23, 82.758, 81.742, 83.106, 82.38),
    (SWIN_B, 85.27, 84.792, 83.354, 85.146, 84.012),
    (SWIN_B_384, 86.44, 86.168, 85.226, 86.394, 85.388),
)
_PTQ4VIT_SOURCE = "README of github.com/hahnyuan/PTQ4ViT, 32 images"

# model, float, then W6A6: EasyQuant, NoisyQuant-Linear, NoisyQuant-PTQ4ViT
_NOISYQUANT = (
    (VIT_S, 81.39, 75.13, 76.86, 78.65),
    (VIT_B, 84.54, 81.42, 81.90, 82.32),
    (DEIT_S, 79.85, 75.27, 76.37, 77.43),
    (DEIT_B, 81.80, 79.47, 79.77, 80.70),
    (SWIN_S, 83.23, 82.45, 82.78, 82.86),
    (SWIN_B, 85.27, 84.30, 84.57, 84.68),
)
_NOISYQUANT_SOURCE = "NoisyQuant (arXiv 2211.16056), 1024 images, as table 1 of I&S-ViT (arXiv 2311.10126) quotes it"
_AUTHOR_SOURCE = "NoisyQuant (arXiv 2211.16056), 1024 images, confirmed by its author in kriskrisliu/NoisyQuant issue 2"
_CODE_SOURCE = "README of github.com/kriskrisliu/NoisyQuant, 256 images, there all of one class"
_VANILLA_SOURCE = (
    "README of github.com/kriskrisliu/NoisyQuant, there calibrated by the first batch of the validation images"
)

_CLIP_ALONE = (("mean", False), ("range", False))
# The paper quantises the products of attention too, its code leaves them, the patch embedding and the head float.
_ALL = (("attention", True), ("patch_embed", True), ("head", True))
_BLOCKS = (("patch_embed", False), ("head", False))
_PAPER = (("published", True), ("noise", "uniform"))  # the code's noise is normal

_PTF: Options = (("observer", "minmax"), ("power_of_two", True))
_UINT8: Options = (("softmax", "uniform"), ("softmax_bits", 8))
_LIS: Options = (("softmax", "log_int"), ("softmax_bits", 4))


def _plain(observer: str) -> Options:
    """Return the options of FQ-ViT's placement with an observer alone."""
    return (("observer", observer), ("power_of_two", False), *_UINT8)


# FQ-ViT's models, their float accuracy, then a row per method. Its README has Bit-Split and "PTQ for ViT" too, others' methods.
# The README of PTQ-for-iTPN adds nothing: its "iTPN-B" and "iTPN-L" are ViT-B and ViT-L of this table, digit for digit.
_FQVIT_MODELS = (DEIT_T, DEIT_S, DEIT_B, VIT_B, VIT_L, SWIN_T, SWIN_S, SWIN_B_1K)
_FQVIT_FLOAT = (72.21, 79.85, 81.85, 84.53, 85.81, 81.35, 83.20, 83.60)
# W/A/Attn bits. The published code's log-int-softmax always has 4 bits, so that "8/8/8" of FQ-ViT itself is taken for --ptf
# without --lis: uint8 probabilities. Logarithms of 8 bits would differ from 4 below 2^-15 only, too little for half a point.
_FQVIT: tuple[tuple[str, Options, tuple[float, ...]], ...] = (
    ("MinMax", _plain("minmax"), (70.94, 75.05, 78.02, 23.64, 3.37, 64.38, 74.37, 25.58)),
    ("EMA", _plain("ema"), (71.17, 75.71, 78.82, 30.30, 3.53, 70.81, 75.05, 28.00)),
    ("Percentile", _plain("percentile"), (71.47, 76.57, 78.37, 46.69, 5.85, 78.78, 78.12, 40.93)),
    ("OMSE", _plain("omse"), (71.30, 75.03, 79.57, 73.39, 11.32, 79.30, 78.96, 48.55)),
    ("FQ-ViT 8/8/8", _PTF + _UINT8, (71.61, 79.17, 81.20, 83.31, 85.03, 80.51, 82.71, 82.97)),
    ("FQ-ViT 8/8/4", _PTF + _LIS, (71.07, 78.40, 80.85, 82.68, 84.89, 80.04, 82.47, 82.38)),
)
_FQVIT_SOURCE = "README of github.com/megvii-research/FQ-ViT, 1000 images in batches of 100 as its script has it"

# model, float, W4A8, W8A8
_PSAQ = (
    (DEIT_T, 72.21, 65.57, 71.56),
    (DEIT_S, 79.85, 73.23, 76.92),
    (DEIT_B, 81.85, 77.05, 79.10),
    (SWIN_T, 81.35, 71.79, 75.35),
    (SWIN_S, 83.20, 75.14, 76.64),
)
_PSAQ_SOURCE = "README of github.com/zkkli/PSAQ-ViT, 32 synthetic images as its script has it"


def _ptq4vit() -> Iterator[Figure]:
    for model, float_top1, base8, base6, full8, full6 in _PTQ4VIT:
        for bits, base, full in ((8, base8, full8), (6, base6, full6)):
            for method, recipe, top1 in (("BasePTQ", "base_ptq", base), ("PTQ4ViT", "ptq4vit", full)):
                yield Figure("ptq4vit", method, model, bits, bits, float_top1, top1, recipe, 32, _PTQ4VIT_SOURCE)


def _noisyquant_code() -> Iterator[Figure]:
    for method, recipe, top1, source, published in (
        ("vanilla (code)", "vanilla", 64.612, _VANILLA_SOURCE, ()),
        ("NoisyQuant (code)", "noisyquant", 83.28, _CODE_SOURCE, (("published", True),)),
    ):
        figure = Figure("noisyquant", method, VIT_B_AUGREG2, 6, 6, 85.10, top1, recipe, 256, source)
        yield replace(figure, options=_BLOCKS, published=published)


def _noisyquant_paper() -> Iterator[Figure]:
    for model, float_top1, clip, linear, ptq4vit in _NOISYQUANT:
        for method, recipe, top1, options, published in (
            ("EasyQuant", "noisyquant", clip, _ALL + _CLIP_ALONE, (("published", True),)),
            ("NoisyQuant-Linear", "noisyquant", linear, _ALL, _PAPER),
            ("NoisyQuant-PTQ4ViT", "noisyquant_ptq4vit", ptq4vit, (), _PAPER),
        ):
            source, evidence = _NOISYQUANT_SOURCE, PublishedEvidence.QUOTED
            if model is VIT_B and recipe == "noisyquant":
                source, evidence = _AUTHOR_SOURCE, PublishedEvidence.SOURCE
            figure = Figure("noisyquant", method, model, 6, 6, float_top1, top1, recipe, 1024, source, evidence)
            yield replace(figure, options=options, published=published)


def _fqvit() -> Iterator[Figure]:
    for method, options, row in _FQVIT:
        own_norm: Options = (("integer_norm", True),) if options[: len(_PTF)] == _PTF else ()
        published: Options = (("last_batch_only", True),) if method == "OMSE" else own_norm
        for model, float_top1, top1 in zip(_FQVIT_MODELS, _FQVIT_FLOAT, row, strict=True):
            own = (("image", False),) if model in (VIT_B, VIT_L) else ()  # whose images its code leaves float
            figure = Figure("fqvit", method, model, 8, 8, float_top1, top1, "fqvit", 1000, _FQVIT_SOURCE)
            yield replace(figure, options=options + own, published=published, batch=100)


def _psaq() -> Iterator[Figure]:
    for model, float_top1, *row in _PSAQ:
        # At 32 images of 224 pixels with a class token, the published synthesis is that of fxquant.
        published: Options = (("published", True),) if model in (SWIN_T, SWIN_S) else ()
        for w_bits, top1 in zip((4, 8), row, strict=True):
            figure = Figure("psaq", "PSAQ-ViT", model, w_bits, 8, float_top1, top1, "psaq", 32, _PSAQ_SOURCE)
            yield replace(figure, published=(), batch=32, synthesis=Synthesis(published=published))


FIGURES: tuple[Figure, ...] = (*_ptq4vit(), *_noisyquant_code(), *_noisyquant_paper(), *_fqvit(), *_psaq(), *low_bits())
