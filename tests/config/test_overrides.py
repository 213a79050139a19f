"""An override that no product matches is refused with a hint; what does no harm is not."""

from __future__ import annotations

import pytest
from torch import nn

from fxquant import ConfigError, LayerSpec, QuantConfig
from fxquant.config.overrides import refuse_unmatched

PRODUCTS = [
    ("conv2d", "stem"),
    ("linear", "blocks.0.qkv"),
    ("attention", "blocks.0"),
    ("linear", "head"),
    ("matmul", ""),
]
MODULES = ["", "stem", "blocks.0.qkv", "blocks.0", "blocks.0.norm", "head"]
SPEC = LayerSpec()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            QuantConfig().set_module_name("blocks.0.qvk", SPEC),
            "the override by module_name 'blocks.0.qvk' matches no matrix product of this model: "
            "did you mean 'blocks.0.qkv' or 'blocks.0' or 'blocks'?",
        ),
        (QuantConfig().set_module_name("haed", None), "did you mean 'head'?"),
        (QuantConfig().set_module_name("block", None), "did you mean 'blocks' or 'blocks.0'?"),
        (QuantConfig().set_module_name("layers", SPEC), "expected modules such as 'blocks.0', 'blocks.0.qkv', 'head'"),
        (QuantConfig().set_module_name("blocks.0.norm", SPEC), "what it names stays float in any case"),
        (QuantConfig().set_module_name("blocks.1", SPEC), "did you mean 'blocks.0' or 'blocks' or 'blocks.0.qkv'?"),
        (
            QuantConfig().set_module_name_regex("qkv", SPEC),
            "the override by module_name_regex 'qkv' matches no matrix product of this model: "
            "expressions match from the start of a module path; did you mean '.*qkv'?",
        ),
        (
            QuantConfig().set_module_name_regex(r"layers\.\d+", None),
            "expected modules such as 'blocks.0', 'blocks.0.qkv'",
        ),
    ],
)
def test_refused(config: QuantConfig, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse_unmatched(config.overrides, PRODUCTS, MODULES)
    assert message in str(error.value)


def test_a_model_whose_products_have_no_names() -> None:
    with pytest.raises(ConfigError, match="its products have no names"):
        refuse_unmatched(QuantConfig().set_module_name("fc", SPEC).overrides, [("linear", "")], [""])


@pytest.mark.parametrize(
    "config",
    [
        QuantConfig(),
        QuantConfig().set_module_name("blocks", SPEC).set_module_name("blocks.0.qkv", None),
        QuantConfig().set_module_name_regex(r"blocks\.\d\.qkv$", SPEC).set_module_name_regex(".*", None),
        QuantConfig().set_module_name("blocks.0.norm", None).set_module_name_regex(".*norm", None),
        QuantConfig().set_object_type(nn.Conv2d, None).set_object_type("matmul", SPEC),
    ],
)
def test_accepted(config: QuantConfig) -> None:
    refuse_unmatched(config.overrides, PRODUCTS, MODULES)
    refuse_unmatched(QuantConfig().set_object_type("attention", SPEC).overrides, [], [])
