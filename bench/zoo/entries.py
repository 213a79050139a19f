"""All that the zoo walks: models of timm, of torchvision and of transformers, which need not be installed."""

from __future__ import annotations

from bench.zoo import timm_models, torchvision_models, transformers_models
from bench.zoo.entry import Entry

TIMM, FEATURES, TORCHVISION, TRANSFORMERS = "timm", "features_only", "torchvision", "transformers"
SOURCES = (TIMM, FEATURES, TORCHVISION, TRANSFORMERS)
ENTRIES: dict[str, Entry] = {
    entry.key: entry
    for entry in (
        *timm_models.entries(TIMM),
        *timm_models.entries(FEATURES, features_only=True),
        *torchvision_models.entries(TORCHVISION),
        *transformers_models.entries(TRANSFORMERS),
    )
}
