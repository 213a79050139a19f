"""
The parameters and buffers of a graph module: each tensor lies in the file once, however many names it has.

A *slot* is a name with a tensor in it; a *description* says how a tensor lies in the file. Tensors come back with the strides
they had, and parameters and buffers as what they were. Complex ones lie in the file as pairs of real numbers, along a last
axis of two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor, fx, nn

from fxquant.checkpoint import scalars
from fxquant.checkpoint.names import check_path
from fxquant.checkpoint.packing import Packing, pack, packing_of, unpack
from fxquant.checkpoint.scalars import Json, field
from fxquant.errors import CheckpointError


class Store:
    """The slots of a module, the tensors in them as they lie in the file, and the descriptions of those."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.slots: list[Json] = []
        self.descriptions: dict[str, Json] = {}
        self.stored: dict[str, Tensor] = {}
        self._keys: dict[object, str] = {}
        self._storages: set[int] = set()
        for name, kind, tensor in _slots(gm):
            check_path(name, "tensor")
            key = self._keys.setdefault(_identity(name, tensor), name)
            if key == name:
                self._put(name, tensor)
            self.slots.append({"name": name, "kind": kind, "tensor": key, "requires_grad": tensor.requires_grad})

    def _put(self, key: str, tensor: Tensor) -> None:
        description: dict[str, Json] = {"shape": list(tensor.shape), "dtype": scalars.dtype_name(tensor.dtype)}
        value = tensor.detach().cpu().resolve_conj().resolve_neg()
        packing, order = packing_of(value), _axis_order(value)
        if order is not None:
            value, description["order"] = value.permute(order), order
        if packing is not None:
            value, description = pack(value, packing), description | asdict(packing)
        value = self._apart(torch.view_as_real(value) if value.is_complex() else value)
        self.stored[key] = value
        self.descriptions[key] = description | {"sha256": digest(value)}

    def _apart(self, value: Tensor) -> Tensor:
        """Return `value` as a tensor that owns its memory: safetensors stores none that share any."""
        storage = value.untyped_storage()
        if not value.is_contiguous() or storage.nbytes() != value.nbytes or storage.data_ptr() in self._storages:
            value = value.clone(memory_format=torch.contiguous_format)
        self._storages.add(value.untyped_storage().data_ptr())
        return value


def restore(key: str, description: Json, value: Tensor) -> Tensor:
    """Return the tensor that `value`, as read from the file, stands for; raise `CheckpointError` where it was changed."""
    shape, dtype = scalars.shape_of(description.get("shape")), scalars.dtype_named(description.get("dtype"))
    order = description.get("order")
    if order is not None and (not isinstance(order, list) or sorted(order) != list(range(len(shape)))):
        raise CheckpointError(f"tensor {key!r}: {order!r:.100} is no order of {len(shape)} axes")
    stored_shape = shape if order is None else tuple(shape[axis] for axis in order)
    packed = "lowest" in description
    expected = (torch.uint8, value.shape) if packed else _stored_as(dtype, stored_shape)
    if (value.dtype, value.shape) != expected or (packed and dtype is not torch.int8):
        raise CheckpointError(
            f"tensor {key!r}: expected {dtype} of shape {shape}, found {value.dtype} of shape {tuple(value.shape)}"
        )
    if digest(value) != field(description, "sha256", str):
        raise CheckpointError(f"tensor {key!r} is damaged: its checksum differs")
    if packed:
        value = unpack(value, _packing(description), stored_shape)
    if dtype.is_complex:
        value = torch.view_as_complex(value)
    return value if order is None else value.permute(_inverse(order))


def _packing(description: Json) -> Packing:
    # Format 1 has four bits alone, and does not say so.
    named = {name: field(description, name, int) for name in ("lowest", "bits", "step") if name in description}
    return Packing(**({"bits": 4} | named))


def fill(gm: nn.Module, slots: list[Json], tensors: dict[str, Tensor]) -> set[str]:
    """Put `tensors` into the slots of `gm`, making the modules they lie in, and return the names of the slots."""
    parameters: dict[tuple[str, bool], nn.Parameter] = {}
    filled: set[str] = set()
    for slot in slots:
        name = check_path(field(slot, "name", str), "tensor")
        kind, key = field(slot, "kind", str), field(slot, "tensor", str)
        if name in filled or key not in tensors:
            raise CheckpointError(f"tensor {name!r} {'appears twice' if name in filled else 'is missing'}")
        value = tensors[key]
        if kind == "parameter":
            requires_grad = field(slot, "requires_grad", bool)
            value = parameters.setdefault((key, requires_grad), nn.Parameter(value, requires_grad))
        _register(gm, name, kind, value)
        filled.add(name)
    return filled


def owner_of(gm: nn.Module, path: str) -> nn.Module:
    """Return the module at `path`, made where it is not there yet."""
    owner = gm
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module().eval())
        child = owner._modules.get(part)
        if child is None:
            raise CheckpointError(f"module {path!r}: {part!r} is no module of a {type(owner).__name__}")
        owner = child
    return owner


def digest(value: Tensor) -> str:
    """Return the SHA-256 of a contiguous tensor's bytes."""
    return hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _register(gm: nn.Module, name: str, kind: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = owner_of(gm, path)
    if hasattr(owner, leaf):
        raise CheckpointError(f"tensor {name!r} would take the place of something else")
    if isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, value)
    elif kind in ("buffer", "transient"):
        owner.register_buffer(leaf, value, persistent=kind == "buffer")
    else:
        raise CheckpointError(f"tensor {name!r} is of unknown kind {kind!r:.100}")


def _slots(gm: fx.GraphModule) -> Iterator[tuple[str, str, Tensor]]:
    for path, module in gm.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield prefix + name, "parameter", parameter
        for name, buffer in module._buffers.items():
            if buffer is not None:
                transient = name in module._non_persistent_buffers_set
                yield prefix + name, "transient" if transient else "buffer", buffer


def _identity(name: str, tensor: Tensor) -> object:
    """Return a key that two tensors share where they are one and the same memory, seen in the same way."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_meta:
        kind = f"{type(tensor).__name__} on {tensor.device}, {tensor.layout}"
        raise CheckpointError(f"tensor {name!r}: expected an ordinary tensor with values, found a {kind}")
    if tensor.numel() == 0:
        return id(tensor)
    place = (str(tensor.device), tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg())


def _stored_as(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    return (dtype.to_real(), (*shape, 2)) if dtype.is_complex else (dtype, shape)


def _axis_order(value: Tensor) -> list[int] | None:
    """Return the axes from the outermost in memory to the innermost, None where that is their own order."""
    if value.is_contiguous():
        return None
    order = sorted(range(value.dim()), key=value.stride, reverse=True)
    return order if value.permute(order).is_contiguous() else None


def _inverse(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]
