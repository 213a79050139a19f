"""Put the noisy bias that calibration found into the graph: the add, and its correction."""

from __future__ import annotations

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant import ops
from fxquant.graph.attributes import bias_of, called_module, read_buffer, set_bias, weight_of
from fxquant.graph.calls import call
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.meta import drop_value, inherit_meta, provenance
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.base import Observer


def add_noise(gm: fx.GraphModule) -> PassResult:
    """
    Add the noise to each operand that has one, and take its response off the bias (NoisyQuant, equation 6).

    Before:  y = linear(observers.fc_input(x), observers.fc_weight(w), b)
    Becomes: noisy = add_noise(x, fc_input_noise)                                # (B, N, K) <- (K,)
             denoised = denoise_bias(b, fc_input_noise, observers.fc_weight(w))  # b - W N
             y = linear(observers.fc_input(noisy), observers.fc_weight(w), denoised)

    An image ``(B, C, H, W)`` takes a noise ``(C, kh, kw)``, the same for each patch.
    """
    return edit(gm, _add)


def _add(gm: fx.GraphModule) -> bool:
    modified = False
    for node in list(gm.graph.nodes):
        module = called_module(node)
        source = node.args[0] if node.args else None
        if not isinstance(module, Observer) or module.noise.numel() == 0 or _is_noisy(source):
            continue
        with blame("add_noise", node):
            _add_one(gm.graph, node, module)
        modified = True
    return modified


def _add_one(graph: fx.Graph, node: fx.Node, observer: Observer) -> None:
    products = [user for user in node.users if user.target in PRODUCTS]
    shape = weight_of(products[0]).shape[1:]
    with graph.inserting_before(node):
        noise = read_buffer(graph, f"{observer.operand}_noise", observer.noise.reshape(shape))
        noisy = call(graph, ops.add_noise, {"x": node.args[0], "noise": noise})
    inherit_meta(noisy, node)
    drop_value(noisy)
    node.update_arg(0, noisy)
    for product in products:
        weight = product.args[1]
        with graph.inserting_before(product):
            denoised = call(graph, ops.denoise_bias, {"bias": bias_of(product), "noise": noise, "weight": weight})
        provenance(denoised, product)
        set_bias(product, denoised)


def _is_noisy(source: object) -> bool:
    return isinstance(source, fx.Node) and source.target is ops.add_noise
