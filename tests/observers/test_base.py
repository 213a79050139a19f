"""What every observer must do: errors that name node and batch, granularity, state dicts, dtypes, rounding bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.config.operands import TensorSpec
from fxquant.errors import CalibrationError
from fxquant.numerics.arithmetic import EPS
from fxquant.numerics.granularity import Granularity, PerChannel, PerHead, PerTensor, RowGroups
from fxquant.observers import EMA, OMSE, MinMax, Observer, ObserverOptions, Percentile
from tests.support.observer_parity import AWAY_FROM_ZERO, batches_of, fake_quantized, observed

OPTIONS = [MinMax(), EMA(sigma=0.1), Percentile(alpha=0.99), OMSE(bins=512), OMSE(last_batch_only=True, bins=512)]
each_observer = pytest.mark.parametrize("options", OPTIONS, ids=repr)


def assert_same(a: Observer, b: Observer) -> None:
    state, expected = a.state_dict(), b.state_dict()
    assert {name: value.dtype for name, value in state.items()} == {name: v.dtype for name, v in expected.items()}
    assert all(state[name].equal(value) for name, value in expected.items())


@each_observer
@pytest.mark.parametrize("stream", AWAY_FROM_ZERO)
@pytest.mark.parametrize(("signed", "symmetric"), [(False, False), (True, False), (True, True)])
def test_values_far_from_zero_are_kept(options: ObserverOptions, stream: str, signed: bool, symmetric: bool) -> None:
    spec, batches = TensorSpec(signed=signed, symmetric=symmetric), batches_of(stream)
    qparams = observed(options, batches, spec).calculate_qparams()
    largest = max(float(x.abs().max()) for x in batches)
    for x in batches:
        assert (fake_quantized(x, qparams, spec) - x).abs().max() <= largest / 60  # percentiles clip a little


@each_observer
@pytest.mark.parametrize("value", [0.0, 1e-9, 1 / 17, 1.0, -0.7, 250.0])
@pytest.mark.parametrize(("signed", "symmetric"), [(False, False), (True, False), (True, True)])
def test_one_value_alone_is_kept_to_half_a_step(
    options: ObserverOptions, value: float, signed: bool, symmetric: bool
) -> None:
    spec, x = TensorSpec(signed=signed, symmetric=symmetric), torch.full((2, 5, 8), value)
    qparams = observed(options, [x, x], spec).calculate_qparams()
    assert float(qparams.scale) <= max(abs(value) / 127, EPS)
    assert (fake_quantized(x, qparams, spec) - x).abs().max() <= float(qparams.scale) * 0.501


@each_observer
def test_returns_its_input_untouched(options: ObserverOptions) -> None:
    x = torch.randn(2, 5, 8, requires_grad=True)
    before = x.detach().clone()
    assert options.build(TensorSpec(), "site")(x) is x
    assert x.equal(before)


@each_observer
@pytest.mark.parametrize(
    ("bad", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "infinite")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refuses_what_is_not_finite(options: ObserverOptions, bad: float, kind: str, dtype: torch.dtype) -> None:
    observer = observed(options, [torch.randn(2, 5, 8, dtype=dtype)])
    state = {name: value.clone() for name, value in observer.state_dict().items()}
    x = torch.randn(2, 5, 8, dtype=dtype)
    x[1, 2, 3] = bad
    with pytest.raises(CalibrationError, match=f"node 'site', calibration batch 1.*found {kind}"):
        observer(x)
    assert all(value.equal(state[name]) for name, value in observer.state_dict().items())


@each_observer
def test_refuses_what_overflows_float32(options: ObserverOptions) -> None:
    with pytest.raises(CalibrationError, match="infinite"):
        options.build(TensorSpec(), "site")(torch.tensor([1.0, 1e300], dtype=torch.float64))


@each_observer
def test_refuses_an_empty_batch_and_an_uncalibrated_result(options: ObserverOptions) -> None:
    observer = options.build(TensorSpec(), "site")
    with pytest.raises(CalibrationError, match=r"node 'site', calibration batch 0.*empty tensor of shape \(0, 4\)"):
        observer(torch.zeros(0, 4))
    assert not observer.calibrated
    with pytest.raises(CalibrationError, match="node 'site' was never calibrated"):
        observer.calculate_qparams()


@pytest.mark.parametrize(
    ("granularity", "shape", "message"),
    [
        (PerHead(), (7,), r"needs axis 1, found shape \(7,\)"),
        (PerChannel(-3), (4, 6), r"needs axis -3, found shape \(4, 6\)"),
        (RowGroups(3), (8, 6), "8 rows do not split into 3 equal groups"),
    ],
)
def test_refuses_a_shape_without_the_axis(granularity: Granularity, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        MinMax().build(TensorSpec(granularity=granularity), "site")(torch.zeros(shape))


@each_observer
@pytest.mark.parametrize(
    ("granularity", "shape", "axis"),
    [
        (PerChannel(-1), (2, 5, 6), -1),
        (PerHead(), (2, 3, 5, 4), 1),
        (RowGroups(3), (12, 7), 0),
        (PerTensor(), (9, 4), None),
    ],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_each_group_is_observed_alone(
    options: ObserverOptions, granularity: Granularity, shape: tuple[int, ...], axis: int | None, symmetric: bool
) -> None:
    batches = [torch.randn(shape) * (i + 1) for i in range(3)]
    spec = TensorSpec(granularity=granularity, symmetric=symmetric, signed=symmetric, bits=4)
    qparams = observed(options, batches, spec).calculate_qparams()
    assert qparams.axis == axis
    rows = torch.stack([MinMax().build(spec, "site").rows(x) for x in batches])  # (batches, G, n)
    alone = TensorSpec(symmetric=symmetric, signed=symmetric, bits=4)
    expected = [observed(options, rows[:, g], alone).calculate_qparams() for g in range(rows.shape[1])]
    assert qparams.scale.reshape(-1).equal(torch.stack([e.scale for e in expected]))
    if qparams.zero_point is None:
        assert symmetric
    else:
        assert qparams.zero_point.reshape(-1).tolist() == [
            e.zero_point.item() for e in expected if e.zero_point is not None
        ]


@each_observer
@pytest.mark.parametrize("saved_after", [0, 1, 3])
@pytest.mark.parametrize("loaded_after", [0, 1])
def test_state_dict_round_trips(options: ObserverOptions, saved_after: int, loaded_after: int) -> None:
    stream, spec = batches_of("drift3d"), TensorSpec(granularity=PerChannel(-1))
    saved = observed(options, stream[:saved_after], spec)
    with torch.inference_mode():
        loaded = observed(options, stream[3 : 3 + loaded_after], spec)
    loaded.load_state_dict(saved.state_dict())
    assert_same(loaded, saved)
    for batch in stream[saved_after:]:
        saved(batch)
        loaded(batch)
    assert_same(loaded, saved)
    assert loaded.calculate_qparams().scale.equal(saved.calculate_qparams().scale)


@each_observer
def test_casting_the_model_keeps_the_statistics(options: ObserverOptions) -> None:
    observer, twin = (observed(options, batches_of("drift3d")) for _ in range(2))
    torch.nn.Sequential(observer).to(torch.bfloat16)
    assert_same(observer, twin)
    assert_same(observer.half().double(), twin)


@each_observer
def test_moving_the_model_moves_the_statistics(options: ObserverOptions) -> None:
    observer = observed(options, batches_of("drift3d")).to("meta")
    assert {value.device.type for value in observer.state_dict().values()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_observer
def test_agrees_across_devices(options: ObserverOptions) -> None:
    stream, spec = batches_of("tok3d_heavy"), TensorSpec(granularity=PerChannel(-1))
    observer = options.build(spec, "site")
    for i, batch in enumerate(stream):
        observer.to("cpu" if i == 1 else "cuda")(batch.to("cpu" if i == 1 else "cuda"))
    qparams, expected = observer.calculate_qparams(), observed(options, stream, spec).calculate_qparams()
    assert qparams.scale.device.type == "cuda"
    torch.testing.assert_close(qparams.scale.cpu(), expected.scale, rtol=1e-5, atol=0)


@each_observer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_dtype_is_observed_as_float32(options: ObserverOptions, dtype: torch.dtype) -> None:
    batches = [batch.to(dtype) for batch in batches_of("tok3d_heavy")]
    assert_same(observed(options, batches), observed(options, [batch.float() for batch in batches]))


@each_observer
def test_strided_batches_are_read_in_place(options: ObserverOptions) -> None:
    batches = [torch.randn(4, 8, 6) for _ in range(2)]
    strided = observed(options, [batch.transpose(1, 2)[:, ::2] for batch in batches])
    assert_same(strided, observed(options, [batch.transpose(1, 2)[:, ::2].contiguous() for batch in batches]))


SPECS = st.builds(
    lambda bits, signed, symmetric: TensorSpec(bits=bits, signed=signed, symmetric=symmetric),
    st.integers(2, 8),
    st.booleans(),
    st.booleans(),
)
VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


@settings(deadline=None)
@given(VALUES, SPECS)
def test_values_inside_the_range_lose_at_most_half_a_step(values: list[float], spec: TensorSpec) -> None:
    x = torch.tensor([*values, 0.0])
    if spec.symmetric and not spec.signed:
        x = x.abs()
    qparams = observed(MinMax(), [x], spec).calculate_qparams()
    error = (x - fake_quantized(x, qparams, spec)).abs()
    assert (error <= qparams.scale * (0.5 + 1e-4)).all()


@settings(deadline=None)
@given(VALUES, SPECS, st.sampled_from(OPTIONS))
def test_zero_stays_zero(values: list[float], spec: TensorSpec, options: ObserverOptions) -> None:
    x = torch.tensor([*values, 0.0])
    qparams = observed(options, [x, -x], spec).calculate_qparams()
    assert fake_quantized(torch.zeros(1), qparams, spec).item() == 0
