"""Decide what is quantised: the one pass that sees the config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.float8 import Float8
from fxquant.config.folds import NormFold, Smooth
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import Role, TensorSpec
from fxquant.config.overrides import Scope, refuse_unmatched
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError
from fxquant.graph import dataflow
from fxquant.graph.attributes import weight_of, window_of
from fxquant.graph.decoder import decoder_products
from fxquant.graph.meta import Operand, Product, Record, module_path, record_of, set_record, value_of
from fxquant.graph.positions import works_on_positions
from fxquant.graph.products import OF_ACTIVATIONS, fitted, operand_role, product_of, unique_label
from fxquant.graph.rewrite import edit
from fxquant.graph.values import is_complex
from fxquant.numerics.granularity import OfTokens, PerHead, PerProjection, PerTensor, RowGroups

_OPERATORS: dict[Any, str] = {
    F.linear: "linear",
    F.conv2d: "conv2d",
    torch.matmul: "matmul",
    F.scaled_dot_product_attention: "attention",
}
_DECODER = "it follows the queries of a decoder, few rows that boxes are read from; decoder=True quantises it"


@dataclass(frozen=True)
class Annotate:
    """
    Write a `Record` on each matrix product: what it is for, and how its operands are quantised or why they are not.

    The graph itself stays as it is. Raises `ConfigError` where an override by module name or expression matches no product.
    """

    config: QuantConfig

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Annotate every product."""
        products = [(_OPERATORS[n.target], module_path(n)) for n in gm.graph.nodes if _is_product(n)]
        decoder = frozenset() if self.config.decoder else decoder_products(gm)
        refuse_unmatched(self.config.overrides, products, {module_path(n) for n in gm.graph.nodes})
        labels: set[str] = set()

        def change(module: fx.GraphModule) -> bool:
            modified = False
            for node in module.graph.nodes:
                if _is_product(node):
                    record = self._record(node, labels, node in decoder)
                    modified |= record_of(node) != record
                    set_record(node, record)
            return modified

        return edit(gm, change)

    def _record(self, node: fx.Node, labels: set[str], in_decoder: bool) -> Record:
        product, module = product_of(node), module_path(node)
        label = unique_label(product, module or node.name, labels)
        override = self.config.override_for(_OPERATORS[node.target], module)
        layer = override.spec if override else self._layer_of(node, product)
        layer = layer or LayerSpec(None, None)
        if self.config.placement is not None and layer.weight is not None:
            layer = replace(layer, activation=layer.activation or TensorSpec())  # until it is known what was placed
        operands = tuple(_resolved(node, o) for o in _operands(node, product, label, layer))
        noise = layer.noise if _takes_noise(node, operands) else None
        fit = layer.fit if operands[-1].role is Role.WEIGHT and operands[-1].spec is not None else None
        record = Record(
            product, module, label, operands, search=layer.search, noise=noise, fit=fit, fold=self._fold(node, operands)
        )
        if all(o.spec is None for o in operands):
            refusal: str | None = f"left float by the config ({override or 'the global spec'})"
        else:
            refusal = _switched_off(self.config, product, _OPERATORS[node.target], module, in_decoder)
            refusal = refusal or self._kept_exact(node)
        if refusal is not None:
            return replace(record, requested=False).left_float(refusal)
        obstacle = _obstacle(node, product, operands)
        if obstacle is None and node.target is not F.linear:
            _refuse_per_token(operands)
        return record.left_float(obstacle) if obstacle else record

    def _kept_exact(self, node: fx.Node) -> str | None:
        """Return why codes are too coarse for what a product computes, None where no override names it or they are not."""
        module = module_path(node)
        named = [o for o in self.config.overrides if o.scope is not Scope.OBJECT_TYPE and o.names("", module)]
        return None if any(o.spec is not None for o in named) else works_on_positions(node)

    def _fold(self, node: fx.Node, operands: tuple[Operand, ...]) -> NormFold | None:
        """Return how the norm that a linear layer reads is to be folded, None where its codes are of another sort."""
        fold, spec = self.config.folds.norms if self.config.folds is not None else None, operands[0].spec
        if fold is None or node.target is not F.linear or operands[0].role is not Role.NORM:
            return None
        if not isinstance(spec, TensorSpec) or spec.trained:
            return None
        return fold if isinstance(fold, Smooth) or isinstance(spec.granularity, PerTensor | OfTokens) else None

    def _layer_of(self, node: fx.Node, product: Product) -> LayerSpec | None:
        """Return the spec of a product without an override."""
        ends = (Product.PATCH_EMBED, Product.HEAD)
        trunk = self.config.trunk is not None and product not in OF_ACTIVATIONS
        return self.config.trunk if trunk and (product in ends or dataflow.on_trunk(node)) else self.config.layer


def _operands(node: fx.Node, product: Product, label: str, layer: LayerSpec) -> tuple[Operand, ...]:
    named: tuple[tuple[str, Role], ...]
    if product is Product.ATTENTION:
        named = (("query", Role.QUERY), ("key", Role.KEY), ("probs", Role.SOFTMAX), ("value", Role.VALUE))
    elif product is Product.QK:
        named = (("query", Role.QUERY), ("key", Role.KEY))
    elif product is Product.PV:
        # A difference of probabilities, as in differential attention, has both signs.
        named = (("probs", operand_role(node.args[0])), ("value", Role.VALUE))
    elif product is Product.MATMUL:
        named = (("input", operand_role(node.args[0])), ("other", operand_role(node.args[1])))
    else:
        named = (("input", operand_role(node.args[0])), ("weight", Role.WEIGHT))
    found = [Operand(role, f"{label}.{name}", layer.spec_for(role)) for name, role in named]
    return tuple(
        replace(o, spec=fitted(o.spec, node.args[i])) if o.role is Role.GELU else o for i, o in enumerate(found)
    )


def _is_product(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _OPERATORS


def _resolved(node: fx.Node, operand: Operand) -> Operand:
    """Say of a weight with a scale per projection how many row groups these are, and where there are no heads to tell apart."""
    spec, value = operand.spec, value_of(node)
    if (
        isinstance(spec, TensorSpec)
        and isinstance(spec.granularity, PerHead)
        and value is not None
        and value.dim() == 3
    ):
        # Heads are folded into the batch, as in nn.MultiheadAttention: axis 1 holds the tokens.
        return replace(operand, spec=replace(spec, granularity=PerTensor()))
    if not isinstance(spec, TensorSpec) or not isinstance(spec.granularity, PerProjection):
        return operand
    groups = dataflow.projections(node) if node.target is F.linear else 0
    if spec.granularity.heads and groups:
        heads = dataflow.heads(node)
        if heads is None:
            raise ConfigError(
                f"operand {operand.name!r}: scales per head need to know the number of heads: give example_inputs as well"
            )
        groups *= heads
    return replace(operand, spec=replace(spec, granularity=RowGroups(groups) if groups > 1 else PerTensor()))


def _takes_noise(node: fx.Node, operands: tuple[Operand, ...]) -> bool:
    """Say whether the noise of a product's input can be taken off its bias: of a convolution where patches tile the image."""
    if node.target is F.conv2d:
        window, weight = window_of(node), node.args[1]
        tiles = isinstance(weight, fx.Node) and weight.op == "get_attr" and window.stride == weight_of(node).shape[2:]
        return tiles and window.padding == (0, 0) and operands[0].spec is not None
    return node.target is F.linear and operands[0].spec is not None


def _switched_off(config: QuantConfig, product: Product, operator: str, module: str, in_decoder: bool) -> str | None:
    """Return the reason where a switch leaves a product float and no override brings it back."""
    overrides = [o for o in config.overrides if o.spec is not None and o.matches(operator, module)]
    if product in OF_ACTIVATIONS:
        # blocks.0 at 4 bits asks for its linear layers; blocks.0.attn, or the operator, names the products of attention.
        named = any(o.names(operator, module) for o in overrides)
        if not (config.opens_attention or named):
            return "the fused attention kernel is faster; attention=True quantises it"
        return _DECODER if in_decoder and not named else None
    if any(o.scope is not Scope.OBJECT_TYPE for o in overrides):
        return None
    if in_decoder:
        return _DECODER
    if product is Product.PATCH_EMBED and not config.patch_embed:
        return "patch embedding is switched off in the config"
    if product is Product.HEAD and not config.head:
        return "the head is switched off in the config"
    return None


def _refuse_per_token(operands: tuple[Operand, ...]) -> None:
    """Raise `ConfigError` for operands that have no tokens on their last axis, or no int8 product with a scale for each."""
    for operand in operands:
        granularity = operand.spec.granularity if operand.spec is not None else None
        if isinstance(granularity, OfTokens):
            kind = type(granularity).__name__
            raise ConfigError(
                f"operand {operand.name!r}: {kind} is for the inputs of linear layers, not of convolutions or attention: "
                'give these a spec of their own, as by set_object_type("conv2d", ...) or LayerSpec(query=...)'
            )


def _obstacle(node: fx.Node, product: Product, operands: tuple[Operand, ...]) -> str | None:
    """Return why a product cannot be quantised even though the config asks for it."""
    if any(is_complex(argument) for argument in node.args):
        return "complex numbers have no codes"
    if product in OF_ACTIVATIONS:
        if any(isinstance(operand.spec, Float8) for operand in operands):
            return "products of two activations have no float8 form"
        parameter = product is Product.MATMUL and any(dataflow.is_parameter(a) for a in node.args)
        return "product with a parameter outside a linear layer" if parameter else None
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return "the weight is computed at run time"
    # A learned step is trained for the convolution that stays.
    learned = operands[1].spec is not None and operands[1].spec.learns_step
    return _convolution_obstacle(node, learned) if node.target is F.conv2d else None


def _convolution_obstacle(node: fx.Node, learned: bool) -> str | None:
    window = window_of(node)
    if window.groups != 1 and not learned:
        return f"grouped convolution ({window.groups} groups): not one matrix product"
    if window.dilation != (1, 1):
        return "dilated convolution: no int8 form"
    return "convolution with padding given by name: no int8 form" if isinstance(window.padding, str) else None
