"""
The adapter to ``torch.ao.quantization``: its observers, `QConfig` and `QConfigMapping`.

torch.ao is deprecated upstream. No other module of fxquant knows it, and this one is imported only when it is needed: by
`fxquant.prepare` for a config that is no `QuantConfig`, or by whoever wants `TorchAo`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.config.quant_config import OPERATORS, QuantConfig
from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerChannel, PerHead, PerTensor, RowGroups
from fxquant.observers.base import ObserverOptions, QParams
from fxquant.observers.minmax import MinMaxObserver

try:
    import torch.ao.quantization as ao
except ImportError:  # the day torch drops it
    ao = None

_SCHEMES = (
    *(torch.per_tensor_affine, torch.per_tensor_symmetric),
    *(torch.per_channel_affine, torch.per_channel_symmetric),
)
_DTYPES = (torch.qint8, torch.quint8, torch.int8, torch.uint8, torch.quint4x2)
_ATTRIBUTES = ("dtype", "qscheme", "quant_min", "quant_max", "calculate_qparams")
_SUPPORTED = (
    "fxquant takes observers that find a static range for 2 to 8 bits, such as MinMaxObserver, PerChannelMinMaxObserver, "
    "MovingAverageMinMaxObserver, HistogramObserver and FixedQParamsObserver"
)


@dataclass(frozen=True, eq=False)
class TorchAo(ObserverOptions):
    """
    The range is that of an observer of torch.ao: a class, ``HistogramObserver.with_args(...)``, or a fake-quantiser of one.

    The observer says itself how many bits it is for, and so on; `spec` returns the `TensorSpec` that agrees with it. In a
    `TensorSpec` that does not it raises `ConfigError`, as it does for an observer that finds no static range.
    """

    factory: Callable[[], Any]

    def __eq__(self, other: object) -> bool:
        # Two with_args(...) of the same arguments differ to Python, but operands that share a range share an observer.
        return isinstance(other, TorchAo) and repr(self.factory) == repr(other.factory)

    def __hash__(self) -> int:
        return hash(repr(self.factory))

    def make(self) -> nn.Module:
        """Return a new torch.ao observer; raise `ConfigError` where it is none that fxquant can use."""
        if isinstance(self.factory, nn.Module) or not callable(self.factory):
            raise ConfigError(f"expected an observer class or what its with_args(...) returns, got {self.factory!r}")
        try:
            module = _quietly(self.factory)
        except Exception as error:
            raise ConfigError(f"{self.factory!r} builds no observer: {error}") from error
        module = getattr(module, "activation_post_process", module)
        reason = _unusable(module)
        if reason is not None:
            raise ConfigError(f"{self.factory!r}: {reason}. {_SUPPORTED}")
        return module  # type: ignore[no-any-return]

    def spec(self) -> TensorSpec:
        """Return the spec of an operand whose range this observer finds."""
        return replace(_own_spec(self.make()), observer=self)

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` unless bits, sign, symmetry and granularity of `spec` are the observer's own."""
        own = _own_spec(self.make())
        asked = spec
        if isinstance(own.granularity, PerChannel) and isinstance(spec.granularity, PerHead | RowGroups):
            asked = replace(asked, granularity=own.granularity)
        different = [f.name for f in fields(Codes) if getattr(own, f.name) != getattr(asked, f.name)]
        if different:
            theirs, ours = (", ".join(f"{n}={getattr(s, n)!r}" for n in different) for s in (own, asked))
            raise ConfigError(
                f"{self.factory!r} is for {theirs}, but the TensorSpec says {ours}: take TorchAo(...).spec(), or give "
                "with_args the dtype, quant_min, quant_max, qscheme or ch_axis that you want"
            )

    def build(self, spec: Codes, name: str) -> TorchAoObserver:
        """Return a `TorchAoObserver`."""
        return TorchAoObserver(spec, name, self.make())


class TorchAoObserver(MinMaxObserver):
    """Hand each batch to a torch.ao observer and take its scale and zero point; the running range serves the checks."""

    spec: Codes

    def __init__(self, spec: Codes, operand: str, inner: Any) -> None:
        super().__init__(spec, operand)
        if self.axis is not None:
            inner.ch_axis = 0  # of the (G, n) rows it is shown
        self.inner = inner

    def observe(self, rows: Tensor) -> None:
        """Show the batch to the inner observer once it is known to be finite."""
        super().observe(rows)
        _quietly(lambda: self.inner.to(rows.device)(rows.float()))

    def initial_qparams(self) -> QParams:
        """Return the scale and zero point of the inner observer; raise `CalibrationError` where there are none."""
        scale, zero_point = _quietly(self.inner.calculate_qparams)
        shape = () if self.axis is None else (-1,)
        if not self.spec.symmetric:
            return QParams(scale.float().reshape(shape), zero_point.to(torch.int32).reshape(shape), self.axis)
        if bool((zero_point != 0).any()):
            raise CalibrationError(f"node {self.operand!r}: {self.inner} is symmetric, but its zero point is not 0")
        return QParams(scale.float().reshape(shape), None, self.axis)


def from_torch_ao(config: object) -> QuantConfig:
    """
    Return the `QuantConfig` that means the same as a torch.ao `QConfigMapping` or `QConfig`.

    A qconfig of None leaves products float, as does ``nn.Identity`` in place of an observer for that operand. Entries for
    operators that are no matrix product, such as ``nn.LayerNorm``, change nothing: those stay float. Attention products are
    quantised where ``torch.matmul`` or ``F.scaled_dot_product_attention`` has an entry of its own.

    Raises `ConfigError` for anything else, for observers without a static range (dynamic, float16, placeholders), for
    `set_module_name_object_type_order`, and for object types that hold products fxquant cannot tell apart.
    """
    if ao is not None and isinstance(config, ao.QConfigMapping):
        return _from_mapping(config)
    if ao is not None and isinstance(config, ao.QConfig):
        return QuantConfig(_layer(config, "the QConfig"))
    raise ConfigError(
        "expected a fxquant.QuantConfig (fxquant.recipe(name) returns one), or a QConfigMapping or QConfig of "
        f"torch.ao.quantization, got {type(config).__name__}: {config!r}"
    )


def _from_mapping(mapping: Any) -> QuantConfig:
    if mapping.module_name_object_type_order_qconfigs:
        key = next(iter(mapping.module_name_object_type_order_qconfigs))
        raise ConfigError(f"set_module_name_object_type_order{key!r} is not supported: use set_module_name instead")
    config = QuantConfig(_layer(mapping.global_qconfig, "the global QConfig"))
    seen: dict[str, tuple[Any, LayerSpec | None]] = {}
    for object_type, qconfig in mapping.object_type_qconfigs.items():
        operator = OPERATORS.get(object_type)
        if operator is None:
            _refuse_container(object_type)
            continue
        layer = _layer(qconfig, f"the QConfig of object type {object_type!r}")
        other, previous = seen.setdefault(operator, (object_type, layer))
        if layer != previous:
            raise ConfigError(f"{other!r} and {object_type!r} are one operator to fxquant: give both the same QConfig")
        config = config.set_object_type(operator, layer)
    for pattern, qconfig in mapping.module_name_regex_qconfigs.items():
        config = config.set_module_name_regex(pattern, _layer(qconfig, f"the QConfig of expression {pattern!r}"))
    for name, qconfig in mapping.module_name_qconfigs.items():
        config = config.set_module_name(name, _layer(qconfig, f"the QConfig of module {name!r}"))
    return config


def _refuse_container(object_type: Any) -> None:
    """Refuse a module type that may hold products: ignoring its entry would quantise them by another one."""
    if not isinstance(object_type, type) or not issubclass(object_type, nn.Module):
        return
    holds_products = object_type.__module__ == nn.Transformer.__module__ or object_type is nn.MultiheadAttention
    if holds_products or not object_type.__module__.startswith("torch."):
        raise ConfigError(
            f"object type {object_type.__name__} is no single operator: name its modules with set_module_name or "
            "set_module_name_regex instead"
        )


def _layer(qconfig: Any, where: str) -> LayerSpec | None:
    if qconfig is None:
        return None
    if not isinstance(qconfig, ao.QConfig):
        raise ConfigError(f"{where}: expected a torch.ao QConfig or None, got {qconfig!r}")
    try:
        weight, activation = (
            None if f in (None, nn.Identity) else TorchAo(f).spec() for f in (qconfig.weight, qconfig.activation)
        )
        return LayerSpec(weight, activation)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _unusable(module: Any) -> str | None:
    """Return why `module` finds no range that fxquant can use, None where it does."""
    name = type(module).__name__
    if getattr(module, "is_dynamic", False):
        return "dynamic quantisation finds its ranges at run time"
    if isinstance(module, (ao.PlaceholderObserver, ao.NoopObserver, ao.RecordingObserver, ao.ReuseInputObserver)):
        return f"{name} finds no range (its dtype is {module.dtype}); to leave an operand float, use nn.Identity"
    if not isinstance(module, nn.Module) or not all(hasattr(module, a) for a in _ATTRIBUTES):
        return f"{name} is no observer of torch.ao"
    if module.dtype not in _DTYPES:
        return f"{module.dtype} is not a dtype of 2 to 8 bits"
    if module.qscheme not in _SCHEMES:
        return f"{module.qscheme} has no integer zero points"
    if _codes(module) is None:
        return f"codes from {module.quant_min} to {module.quant_max} in {module.dtype} are not those of 2 to 8 bits"
    return None


def _codes(module: Any) -> TensorSpec | None:
    """Return the spec of the codes that the observer is for, None where no spec has such codes."""
    limits = torch.iinfo(module.dtype)
    for bits in range(2, 9):
        for signed, narrow in ((False, False), (True, False), (True, True)):
            spec = TensorSpec(bits, signed=signed, narrow=narrow)
            inside = limits.min <= spec.qmin and spec.qmax <= limits.max
            if inside and (spec.qmin, spec.qmax) == (module.quant_min, module.quant_max):
                return spec
    return None


def _own_spec(module: Any) -> TensorSpec:
    """Return what the observer itself says about its operand, as a spec with a stand-in for an observer."""
    codes = _codes(module) or TensorSpec()
    # A symmetric scheme on unsigned codes puts zero at 128: affine, as fxquant sees it.
    symmetric = codes.signed and module.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)
    per_channel = module.qscheme in (torch.per_channel_affine, torch.per_channel_symmetric)
    return replace(codes, symmetric=symmetric, granularity=PerChannel(module.ch_axis) if per_channel else PerTensor())


def _quietly(function: Callable[[], Any]) -> Any:
    # Its deprecations and hints are for those who write against torch.ao.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()
