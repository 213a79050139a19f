"""Norms whose channels calibration scales, by what it sees of them, at the cost of the linear layers that read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.config.folds import NormFold, Smooth
from fxquant.config.operands import TensorSpec
from fxquant.graph.attributes import called_module, tensor_of, weight_of
from fxquant.graph.channels import is_norm, linear_readers
from fxquant.graph.fold_tensors import (
    exact_bias,
    exact_weight,
    new_tensor,
    norm_tensors,
    set_exact_bias,
    set_norm_tensors,
)
from fxquant.graph.meta import Operand, record_of, set_record
from fxquant.graph.observer_home import ObserverHome
from fxquant.observers.base import Observer


@dataclass(frozen=True, eq=False)
class NormSite:
    """A norm, the linear layers that alone read it, and how one of them quantises what it reads."""

    norm: fx.Node
    readers: tuple[fx.Node, ...]
    fold: NormFold
    spec: TensorSpec


def norm_sites(graph: fx.Graph) -> list[NormSite]:
    """
    Return the norms that the records of linear layers say are to be folded, where these alone read them.

    An RMS norm has no shift, which `Reparameterize` needs unless codes are symmetric: there it is left out.
    """
    sites = []
    for norm in graph.nodes:
        found = linear_readers(norm) if is_norm(norm) else ()
        readers = () if isinstance(found, str) else found
        for reader in readers:
            record = record_of(reader)
            spec = record.operands[0].spec if record is not None else None
            if record is None or record.fold is None or not isinstance(spec, TensorSpec):
                continue
            if norm.target is F.layer_norm or isinstance(record.fold, Smooth) or spec.symmetric:
                sites.append(NormSite(norm, readers, record.fold, spec))
            break
    return sites


def scale_channels(site: NormSite, ratio: Tensor, shift: Tensor) -> None:
    """
    Let the norm of `site` give ``y / ratio - shift`` in place of y, float64 ``(C,)`` each, and its readers what they gave.

    What observers saw of it is forgotten, and those of the weights see the new ones.
    """
    gm = site.norm.graph.owning_module
    if gm is None:
        raise RuntimeError("the graph belongs to no module")
    home, device = ObserverHome(gm), weight_of(site.readers[0]).device
    ratio, shift = ratio.to(device), shift.to(device)
    for reader in site.readers:
        set_exact_bias(reader, exact_bias(reader) + exact_weight(reader) @ (ratio * shift))
        _scale_columns(reader, ratio, home)
        _forget_input(gm, reader, home)
    gamma, beta = norm_tensors(site.norm)
    set_norm_tensors(site.norm, gamma.to(device) / ratio, beta.to(device) / ratio - shift)


def settle_folds(gm: fx.GraphModule) -> bool:
    """Note on all records that nothing is left to fold; say whether anything was."""
    records = [(node, record) for node in gm.graph.nodes if (record := record_of(node)) and record.fold is not None]
    for node, record in records:
        set_record(node, replace(record, fold=None))
    return bool(records)


def _scale_columns(reader: fx.Node, ratio: Tensor, home: ObserverHome) -> None:
    """Multiply each column of a weight ``(O, C)``, and let a new observer see the result where one saw the weight."""
    observed = called_module(reader.args[1]) is not None
    old: Any = reader.args[1].args[0] if observed else reader.args[1]  # type: ignore[union-attr]
    new = new_tensor(old, exact_weight(reader) * ratio, tensor_of(old).dtype)
    operand = _operand(reader, 1)
    if observed and operand is not None and operand.spec is not None:
        observer = operand.spec.build(operand.name).to(ratio.device)
        observer(tensor_of(new))
        observer.frozen = True
        new = home.call(operand.name.replace(".", "_"), observer, new)
    reader.update_arg(1, new)


def _forget_input(gm: fx.GraphModule, reader: fx.Node, home: ObserverHome) -> None:
    """Put a fresh observer in the place of the one that sees what `reader` reads."""
    observer, operand, call = called_module(reader.args[0]), _operand(reader, 0), reader.args[0]
    if (
        isinstance(observer, Observer)
        and operand is not None
        and operand.spec is not None
        and isinstance(call, fx.Node)
    ):
        fresh = operand.spec.build(observer.operand)
        gm.set_submodule(str(call.target), fresh.to(home.device).train(observer.training))


def _operand(reader: fx.Node, position: int) -> Operand | None:
    record = record_of(reader)
    return None if record is None else record.operands[position]
