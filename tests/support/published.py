"""Single layers as PTQ4ViT's and NoisyQuant's published codes searched them, recorded in `tests/data`."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fxquant import Metric, PerChannel, PerHead, PerTensor, RowGroups, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.calibration.gradients import Sensitivity
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Part, Side
from fxquant.observers.base import Observer
from fxquant.observers.operand_spec import OperandSpec

DATA = Path(__file__).parents[1] / "data"
METRICS = {
    "cosine": Metric.COSINE,
    "L1_norm": Metric.L1,
    "L2_norm": Metric.L2,
    "linear_weighted_L2_norm": Metric.LINEAR_WEIGHTED_L2,
    "square_weighted_L2_norm": Metric.SQUARE_WEIGHTED_L2,
    "hessian": Metric.HESSIAN,
}


@functools.cache
def recorded(name: str) -> dict[str, Tensor]:
    """Return all tensors of a recorded file; nobody writes to them."""
    return load_file(DATA / f"{name}.safetensors")


def recorded_model(name: str) -> nn.Module:
    """Return the model whose weights a recorded file holds."""
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        about = file.metadata()
    model = timm.create_model(about["timm_model"], **json.loads(about["timm_kwargs"]))
    state = {key.removeprefix("state/"): t for key, t in recorded(name).items() if key.startswith("state/")}
    model.load_state_dict(state, strict=False)
    return model.eval()  # type: ignore[no-any-return]


def observer_of(spec: OperandSpec, values: Tensor, weight: bool = False) -> Observer:
    """Return an observer that has seen `values`."""
    observer = spec.build("site")
    observer(values)
    observer.frozen = weight
    return observer


def interval(qparams: Any, spec: object) -> Tensor:
    """Return the searched scales as the published code counts them, ``(groups,)``."""
    if isinstance(spec, TwinSoftmax):
        return (qparams.split / spec.qmax).reshape(1)  # type: ignore[no-any-return]
    return (qparams.high if isinstance(spec, TwinGELU) else qparams.scale).reshape(-1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """One recorded search of PTQ4ViT: ``<layer>/<quantiser>/w<W>a<A>/<metric>/<preset>``."""

    name: str

    @property
    def fields(self) -> list[str]:
        return self.name.split("/")

    @property
    def layer(self) -> str:
        return self.fields[0]

    @property
    def bits(self) -> int:
        return int(self.fields[2][1])

    @property
    def metric(self) -> Metric:
        return METRICS[self.fields[3]]

    @property
    def rounds(self) -> int:
        return 1 if self.fields[4] == "base" else 3

    @property
    def multipliers(self) -> tuple[float, ...]:
        smallest = 0.5 if self.fields[4] == "base" else 0.01
        return tuple(smallest + i * (1.2 - smallest) / 100 for i in range(100))

    def __getitem__(self, tensor: str) -> Tensor:
        return recorded("ptq4vit_layers")[f"{self.name}/{tensor}"]

    def has(self, tensor: str) -> bool:
        return f"{self.name}/{tensor}" in recorded("ptq4vit_layers")

    def given(self, tensor: str) -> Tensor:
        return recorded("ptq4vit_layers")[f"{self.layer}/{tensor}"]

    def problem(self) -> tuple[Problem, list[tuple[str, Side]]]:
        """Return the problem and its sides in the order in which they are searched, by the suffix of what is recorded."""
        if self.layer in ("qk", "attnv"):
            return self._attention()
        if self.layer == "conv":
            return self._convolution()
        x, weight, grad = self.given("input").flatten(0, 1), self.given("weight"), self.given("grad")
        rows = RowGroups(3) if self.layer == "qkv" else PerTensor()
        spec: OperandSpec = _signed(self.bits, PerTensor())
        if self.fields[1] == "twin":
            spec = TwinGELU(self.bits, published=True)
        left = Side([self._part(spec, x)])
        right = Side([self._part(_signed(self.bits, rows), weight, weight=True)], weight=True)
        gradient = Sensitivity.of(grad.flatten(0, 1)[None, None])
        problem = Problem(left, right, self.metric, self.given("bias"), gradient, len(grad))
        return problem, [("w", right), ("a", left)]

    def _attention(self) -> tuple[Problem, list[tuple[str, Side]]]:
        heads = _signed(self.bits, PerHead())
        spec = TwinSoftmax(self.bits, published=True) if self.fields[1] == "split" else heads
        left = Side([self._part(spec, self.given("A"))])
        right = Side([self._part(heads, self.given("B"))], transposed=True)
        sensitivity = Sensitivity.of(self.given("grad"))
        problem = Problem(left, right, self.metric, None, sensitivity, len(self.given("A")))
        return problem, [("A", left), ("B", right)]

    def _convolution(self) -> tuple[Problem, list[tuple[str, Side]]]:
        x, weight, grad = self.given("input"), self.given("weight"), self.given("grad")
        patches = F.unfold(x, 4, stride=4).mT.flatten(0, 1)
        spec = _signed(self.bits, PerChannel(0) if self.fields[1] == "channelwise" else PerTensor())
        left = Side([Part.of(None, patches, ())])
        right = Side([self._part(spec, weight, weight=True)], weight=True)
        gradient = Sensitivity.of(grad.movedim(1, -1).reshape(1, 1, -1, len(weight)))
        return Problem(left, right, self.metric, self.given("bias"), gradient, len(x)), [("w", right)]

    def _part(self, spec: OperandSpec, values: Tensor, weight: bool = False) -> Part:
        return Part.of(observer_of(spec, values, weight), values, self.multipliers)


def _signed(bits: int, granularity: PerTensor | PerHead | PerChannel | RowGroups) -> TensorSpec:
    return TensorSpec(bits, signed=True, symmetric=True, granularity=granularity)


def cases() -> list[Case]:
    """Return every recorded search."""
    names = {key.rpartition("/")[0] for key in recorded("ptq4vit_layers") if key.count("/") == 5}
    return [Case(name) for name in sorted(names)]


def table_of(problem: Problem, side: Side) -> Tensor:
    """Return the loss of every candidate, ``(steps, groups)``."""
    losses = problem.losses_of(side)
    return torch.stack([losses(torch.full((side.groups,), i)).double() for i in range(side.steps)])
