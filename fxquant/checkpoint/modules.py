"""The modules of a prepared graph as JSON and back; their statistics are tensors like any others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from fxquant.checkpoint import scalars, typed
from fxquant.checkpoint.names import check_text
from fxquant.checkpoint.scalars import Json, field
from fxquant.errors import CheckpointError
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops.train_modules import BatchNorm, DropPath

# What an observer holds besides its statistics and what it was built with.
_STATE = {"frozen", "dtype", "range"}
# Statistics with the axes of their operand; `fxquant.checkpoint.soundness` knows its shape.
_SHAPED_AS_OPERAND = {"found_weight"}


def called_modules(gm: fx.GraphModule) -> dict[str, nn.Module]:
    """Return the modules that the graph calls, by path; raise `CheckpointError` where one has two paths."""
    called: dict[str, nn.Module] = {}
    for path in dict.fromkeys(str(n.target) for n in gm.graph.nodes if n.op == "call_module"):
        module = gm.get_submodule(path)
        other = next((name for name, each in called.items() if each is module), None)
        if other is not None:
            raise CheckpointError(f"{other} and {path} are one {type(module).__name__}, which cannot be stored")
        called[path] = module
    return called


def encode(path: str, module: nn.Module) -> Json:
    """Return the JSON form of the module at `path`; raise `CheckpointError` for a module that cannot be rebuilt from it."""
    try:
        data = {"path": path, **_encode(module)}
        fresh = decode(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if type(fresh) is not type(module) or _plain_state(fresh) != _plain_state(module):
        raise CheckpointError(
            f"{path}: this {type(module).__name__} is not as its spec builds it, and cannot be stored"
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        check_state(fresh, name, tensor)
    return data


def decode(data: Json) -> nn.Module:
    """Return the module that `data` describes, without statistics."""
    kind = field(data, "type", str)
    if kind == "batch_norm":
        norm: nn.Module = BatchNorm(field(data, "momentum", float), field(data, "eps", float))
        return norm.eval()
    if kind == "drop_path":
        rate = field(data, "rate", float)
        if not 0 <= rate < 1:
            raise CheckpointError(f"expected a rate in [0, 1), found {rate}")
        drop: nn.Module = DropPath(rate)
        return drop.eval()
    operand = check_text(field(data, "operand", str), "operand")
    if kind == "input":
        switches = [name in data and field(data, name, bool) for name in ("infinite", "strict")]
        recorder = InputRecorder(operand, field(data, "images", bool), *switches)
        recorder.range = _range(data)
        if data.get("dtype") is not None:
            recorder.dtype = scalars.dtype_named(data["dtype"])
        return recorder.eval()
    if kind != "observer":
        raise CheckpointError(f"unknown kind of module {kind!r:.100}")
    spec: OperandSpec = typed.decode(data.get("spec"), OperandSpec)
    observer = spec.build(operand)
    observer.frozen = field(data, "frozen", bool)
    return observer.eval()


def check_state(fresh: nn.Module, name: str, tensor: Tensor) -> None:
    """Raise `CheckpointError` where `tensor` cannot be the statistic `name` of an observer that was built as `fresh`."""
    owner, _, leaf = name.rpartition(".")
    try:
        expected = getattr(fresh.get_submodule(owner), leaf)
    except AttributeError:
        expected = None
    if not isinstance(expected, Tensor):
        raise CheckpointError(f"{type(fresh).__name__} has no statistic {name!r:.100}")
    axes = tensor.dim() if leaf in _SHAPED_AS_OPERAND else expected.dim()
    if expected.dtype is not tensor.dtype or axes != tensor.dim():
        raise CheckpointError(
            f"statistic {name!r} of {type(fresh).__name__}: expected {expected.dim()} axes of {expected.dtype}, found "
            f"{tensor.dim()} of {tensor.dtype}"
        )


def _range(data: Json) -> tuple[float, float] | None:
    """Return the range that a recorder saw, None where the file has none. Earlier files have it of constant images alone."""
    if data.get("constant") is not None:
        return (field(data, "constant", float),) * 2
    if data.get("range") is None:
        return None
    low, high = typed.decode(data["range"], tuple[float, float])
    if not low <= high:
        raise CheckpointError(f"expected the smallest and the largest value, found {low} and {high}")
    return low, high


def _encode(module: nn.Module) -> dict[str, Json]:
    if type(module) is InputRecorder:
        dtype = None if module.dtype is None else scalars.dtype_name(module.dtype)
        data: dict[str, Json] = {"type": "input", "operand": module.operand, "images": module.images, "dtype": dtype}
        data |= {name: True for name in ("infinite", "strict") if getattr(module, name)}
        return data | ({} if module.range is None else {"range": [scalars.encode_float(end) for end in module.range]})
    if type(module) is BatchNorm:
        return {"type": "batch_norm", "momentum": float(module.momentum), "eps": float(module.eps)}
    if type(module) is DropPath:
        probability: Any = module.drop_prob
        return {"type": "drop_path", "rate": float(probability)}
    if not isinstance(module, Observer):
        raise CheckpointError(f"a {type(module).__name__} cannot be stored")
    spec = typed.encode(module.spec)
    return {"type": "observer", "operand": module.operand, "spec": spec, "frozen": module.frozen}


def _plain_state(module: nn.Module) -> dict[str, Any]:
    internal = vars(nn.Module())
    return {name: value for name, value in vars(module).items() if name not in internal and name not in _STATE}
