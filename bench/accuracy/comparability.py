"""The section of docs/accuracy.md on what makes published figures incomparable."""

from __future__ import annotations

from bench.markdown import markdown

_HEAD = ("what differs", "in published work", "here")
_ROWS = (
    (
        "input of the patch embedding",
        (
            "8 bits whatever the rest has in RepQ-ViT; set to 8 bits in AdaLog, APHQ-ViT and FIMA-Q, where "
            "AdaLog's code then leaves it float; float in ERQ's code, PTQ4ViT and NoisyQuant"
        ),
        (
            "8 bits in `default`, `dynamic`, `vvtq` and the recipes that search; float in `itpn`, and with "
            "`published=True` in PTQ4ViT's and NoisyQuant's; as wide as all activations in the others"
        ),
    ),
    (
        "head",
        "as wide as the rest in PTQ4ViT and AdaLog's family; float in NoisyQuant's code; 8 bits in VVTQ",
        (
            "as wide as the rest; 8 bits in `vvtq`, float in `itpn`, in `noisyquant` with `published=True`, and "
            "wherever `head=False`"
        ),
    ),
    (
        "products of attention",
        "quantised in most papers, float in NoisyQuant's code",
        (
            "float, except in `base_ptq`, `ptq4vit`, `noisyquant_ptq4vit`, `adalog`, `glfq`, `fqvit`, `itpn`, "
            "`psaq`, `vvtq`, and with `attention=True`"
        ),
    ),
    (
        "scales of activations",
        (
            "one for a tensor in most papers; in FIMA-Q's settings for 4 bits a constant one for each position of "
            "a token, which fits one resolution alone; groups chosen at run time in IGQ"
        ),
        "one for a tensor; in `default` and `dynamic` one for each token of inputs of linear layers, computed at run time",
    ),
    (
        "scales of weights",
        "one for a row in most papers; two for a row of `qkv` and `fc1` in the later version of ERQ",
        "one for a row",
    ),
    (
        "the float model",
        (
            "in APHQ-ViT and GLF-Q, MLPs are trained anew with ReLU in place of GELU, which alone costs up to 1.1 "
            "points; a drop counted from there is smaller"
        ),
        "the model as it is",
    ),
    (
        "the checkpoint",
        (
            "the ViT-B/16 of timm has had weights of 84.54 % and of 85.1 %; some tables quote the first and load "
            "the second"
        ),
        "full tags, and the float accuracy measured beside each row",
    ),
    (
        "zero points",
        "RepQ-ViT and ERQ keep a fraction after they average them, which int8 products cannot use",
        "whole numbers",
    ),
    (
        "calibration",
        "32 images without training, or 1024 images and up to hours of training on a GPU",
        "32 images; training only where the recipe or the table says so",
    ),
    (
        "arithmetic",
        "simulated on floats, nearly everywhere",
        "simulated, and compared with int8 products [below](#int8-against-the-simulation)",
    ),
)
_TEXT = """\
## What makes figures incomparable

Two tables of "W4A4" seldom measure the same thing. Before a figure of a paper is held against one of these tables, or against
that of another paper, ask what it says of the following.

{table}

`python -m bench.imagenet --data DIR` prints published rows with the source of each beside ours, and warns where the float
accuracies differ. Rows of "own code" in the table above were run on the same ViT as ours, and still differ in what they
quantise: all of them quantise the products of attention."""


def comparability() -> str:
    """Return the section."""
    return _TEXT.format(table=markdown(_HEAD, _ROWS, text=len(_HEAD)))
