"""The recipes by name, and a line about each."""

from __future__ import annotations

DESCRIPTIONS = {
    "default": "most accurate: scales per token, norms reparameterised, weights fitted",
    "minmax": "smallest and largest value seen",
    "ema": "moving average of each batch's minimum and maximum",
    "percentile": "moving average of two quantiles of each batch",
    "omse": "minimum and maximum, shrunk by the factor with the least squared error",
    "dynamic": "a scale per token for the inputs of linear layers, computed at run time",
    "base_ptq": "scales searched for the output of each product, attention included; uniform codes (PTQ4ViT)",
    "ptq4vit": "base_ptq with twin-uniform codes after softmax and GELU (PTQ4ViT)",
    "adalog": "affine codes, and powers of searched bases after softmax and GELU (AdaLog)",
    "vanilla": "largest value of weights and inputs, and nothing else",
    "noisyquant": "clipping scale and noisy bias for the input of each linear layer (NoisyQuant)",
    "noisyquant_ptq4vit": "ptq4vit with noisy biases on all inputs of linear layers (NoisyQuant)",
    "gptq": "weights rounded column by column, each making up for the errors before it (GPTQ, GPTAQ)",
    "erq": "weights moved against the error of inputs, then rounded half by half (ERQ)",
    "repq": "omse, after the channels of norms were brought to one range (RepQ-ViT)",
    "rotate": "omse and GPTQ, after the residual stream and the heads were turned by random Hadamard matrices",
    "glfq": "omse on a rotated model, attention included, whose blocks are then trained without labels (GLF-Q)",
    "fqvit": "every value is rounded; by a 4-bit softmax up to 2.2 times worse than FQ-ViT's minmax placement",
    "itpn": "results of linear layers, GELU and both attention products are rounded, norms are not (PTQ-for-iTPN)",
    "vvtq": "learned steps on all products, 8 bits for the first and last layers; for fxquant train (VVTQ)",
    "psaq": "as fqvit with one scale per value and float probabilities (PSAQ-ViT)",
}
