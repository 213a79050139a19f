"""`insert_observers` observes each operand once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.config.layer_spec import LayerSpec
from fxquant.config.operands import TensorSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import CalibrationError
from fxquant.graph.stages import Stage
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import Observer
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.insert_observers import insert_observers
from fxquant.spec import verify
from tests.support.check_pass import check_pass, check_unchanged, module_of, through

X = torch.randn(2, 5, 4)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def annotated(module: nn.Module, config: QuantConfig | None = None) -> fx.GraphModule:
    return through(module, canonicalize, Annotate(config or QuantConfig()))


def observers(gm: fx.GraphModule) -> dict[str, Observer]:
    return {name: m for name, m in gm.named_modules() if isinstance(m, Observer)}


def test_observes_inputs_and_weights() -> None:
    gm = check_pass(
        insert_observers,
        annotated(Mlp()),
        (X,),
        before="""
            (x)
            linear = F.linear(x, fc1.weight, fc1.bias)
            gelu = F.gelu(linear)
            linear_1 = F.linear(gelu, fc2.weight)
            add = x + linear_1
            return add
        """,
        after="""
            (x)
            fc1_input = observers.fc1_input(x)
            fc1_weight = observers.fc1_weight(fc1.weight)
            linear = F.linear(fc1_input, fc1_weight, fc1.bias)
            gelu = F.gelu(linear)
            fc2_input = observers.fc2_input(gelu)
            fc2_weight = observers.fc2_weight(fc2.weight)
            linear_1 = F.linear(fc2_input, fc2_weight)
            add = x + linear_1
            return add
        """,
        stage=Stage.PREPARED,
    )
    verify(gm, Stage.PREPARED)


def test_weights_are_observed_at_once_and_activations_later() -> None:
    gm = insert_observers(annotated(Mlp())).graph_module
    found = observers(gm)
    assert {name: observer.calibrated for name, observer in found.items()} == {
        "observers.fc1_input": False,
        "observers.fc1_weight": True,
        "observers.fc2_input": False,
        "observers.fc2_weight": True,
    }
    minimum, maximum = found["observers.fc1_weight"].range()
    weight = gm.get_parameter("fc1.weight")
    torch.testing.assert_close((minimum, maximum), (weight.amin(1), weight.amax(1)))
    gm(X)
    gm(2 * X)
    assert int(found["observers.fc1_weight"].batches) == 1
    assert int(found["observers.fc1_input"].batches) == 2


def test_one_value_quantised_one_way_has_one_observer() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.q) + F.linear(x, self.k) + F.linear(x * 2, self.q)

    check_pass(
        insert_observers,
        annotated(module_of(forward, q=torch.randn(4, 4), k=torch.randn(4, 4))),
        (X,),
        after="""
            (x)
            linear_input = observers.linear_input(x)
            linear_weight = observers.linear_weight(q)
            linear = F.linear(linear_input, linear_weight)
            linear_1_weight = observers.linear_1_weight(k)
            linear_1 = F.linear(linear_input, linear_1_weight)
            add = linear + linear_1
            mul = x * 2
            linear_2_input = observers.linear_2_input(mul)
            linear_2 = F.linear(linear_2_input, linear_weight)
            add_1 = add + linear_2
            return add_1
        """,
        stage=Stage.PREPARED,
    )


def test_one_value_quantised_two_ways_has_two() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)  # type: ignore[no-any-return]

    config = QuantConfig().set_module_name("b", LayerSpec(activation=TensorSpec(4)))
    gm = insert_observers(annotated(Two(), config)).graph_module
    assert {name: o.initial_bits for name, o in observers(gm).items() if name.endswith("input")} == {
        "observers.a_input": 8,
        "observers.b_input": 4,
    }


def test_leaves_operands_without_a_spec_float() -> None:
    check_pass(
        insert_observers,
        annotated(Mlp(), QuantConfig(LayerSpec(activation=None)).set_module_name("fc2", None)),
        (X,),
        after="""
            (x)
            fc1_weight = observers.fc1_weight(fc1.weight)
            linear = F.linear(x, fc1_weight, fc1.bias)
            gelu = F.gelu(linear)
            linear_1 = F.linear(gelu, fc2.weight)
            add = x + linear_1
            return add
        """,
        stage=Stage.PREPARED,
    )


def test_leaves_a_graph_that_has_its_observers() -> None:
    gm = insert_observers(annotated(Mlp())).graph_module
    check_unchanged(insert_observers, gm, (X,), Stage.PREPARED)


def test_makes_room_beside_a_part_of_the_model_called_observers() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.observers = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.observers(x)  # type: ignore[no-any-return]

    check_pass(
        insert_observers,
        annotated(Watched()),
        (X,),
        after="""
            (x)
            observers_input = observers_.observers_input(x)
            observers_weight = observers_.observers_weight(observers.weight)
            linear = F.linear(observers_input, observers_weight)
            return linear
        """,
        stage=Stage.PREPARED,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_float32_whatever_the_model(dtype: torch.dtype) -> None:
    gm = insert_observers(annotated(Mlp().to(dtype))).graph_module
    gm(X.to(dtype))
    assert all(t.dtype is torch.float32 for o in observers(gm).values() for t in o.range())


def test_names_the_node_where_an_observer_cannot_be_built() -> None:
    config = QuantConfig(LayerSpec(weight=TensorSpec(signed=True, granularity=PerChannel(3))))
    with pytest.raises(CalibrationError, match=r"fc1.weight.*axis 3"):
        insert_observers(annotated(Mlp(), config))
