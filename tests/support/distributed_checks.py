"""
What two ranks check together; `tests.test_distributed` starts them once and reports each check.

All are functions ``check_*(expected)``, called on every rank. `expected` is what one process found.
"""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

import fxquant
from fxquant import AdaLogGELU, CalibrationError, FxquantError, LayerSpec, QuantConfig, ScaleSearch, SiteCost
from fxquant.calibration import sharing
from fxquant.data.folder import read_image_tree
from fxquant.distillation import CropLabels, make_labels, open_labels, shards
from fxquant.distillation.shard import write_shard
from fxquant.distributed import (
    broadcast_module,
    first_then_others,
    from_first,
    gather_objects,
    interleave,
    on_every_rank,
    rank,
    refuse_different,
    shard,
    sum_over_ranks,
    together,
    work_as_one,
    world_size,
)
from fxquant.errors import InputError
from fxquant.measurement.evaluation import Evaluation, evaluate
from fxquant.ops.train_modules import BatchNorm
from fxquant.progress import say
from fxquant.training import initialise_scales
from tests.support.models import Conditioned, conditions, images, small_vit
from tests.support.searching import X, mlp
from tests.support.soft_labels import DATA_CONFIG, TinyTeacher, equal, make_images

WORLD = 2
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("minmax", "ema", "percentile", "omse", "psaq", "fqvit", "vanilla", "ptq4vit")},
    "omse of the last batch": ("omse", {"last_batch_only": True}),
    "powers of two alone": ("fqvit", {"softmax": "log2", "observer": "ema"}),
    "outlier tokens": ("dynamic", {"outliers": 1.5}),
    "twins by statistics": ("base_ptq", {"twin_softmax": True, "twin_gelu": True, "weights": False, "inputs": False}),
    "noisyquant": ("noisyquant", {"noise": "uniform", "correct_bias": True}),
    "noisyquant_ptq4vit": ("noisyquant_ptq4vit", {"noise": "uniform", "metric": "hessian"}),
}


def batches(sizes: tuple[int, ...] = (4, 4, 4, 2, 4)) -> list[Tensor]:
    """Return five batches, so that one rank has more than the other."""
    return [images(size, seed) for seed, size in enumerate(sizes)]


def prepare(config: Any) -> fx.GraphModule:
    """Return a prepared model, the same in every process."""
    torch.manual_seed(0)
    return fxquant.prepare(small_vit(depth=1), config, images())


def calibrated(case: str, own: list[Tensor]) -> dict[str, Tensor]:
    """Return the state of a model calibrated with `own` batches."""
    name, options = CASES[case]
    prepared = prepare(fxquant.recipe(name, 6, 6, **options))
    return fxquant.calibrate(prepared, own, progress=False).state_dict()


def histogram_state(own: list[Tensor]) -> dict[str, Tensor]:
    """Return the state of a model calibrated by observers of torch.ao, which do not summarise."""
    from torch.ao.quantization import HistogramObserver, PerChannelMinMaxObserver, QConfig

    weight = PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    prepared = prepare(QConfig(HistogramObserver, weight))
    return fxquant.calibrate(prepared, own, progress=False).state_dict()


def table_errors(own: list[Tensor]) -> list[tuple[float, float] | None]:
    """Return what 8-bit tables of powers add to the error of each operand of two layers, each searched by another rank."""
    search = ScaleSearch(steps=4, smallest=0.5, rounds=1)
    prepared = fxquant.prepare(mlp(), QuantConfig(LayerSpec(gelu=AdaLogGELU(), search=search)))
    fxquant.calibrate(prepared, own, progress=False)
    return [operand.table_error for row in fxquant.report(prepared) for operand in row.operands]


def conditioned(recipe: str, own: Any) -> dict[str, Tensor]:
    """Return the state of a model of three inputs calibrated with `own` batches."""
    torch.manual_seed(0)
    prepared = fxquant.prepare(Conditioned().eval(), fxquant.recipe(recipe), conditions())
    return fxquant.calibrate(prepared, own, progress=False).state_dict()


def several_inputs() -> list[Any]:
    """Return batches of three inputs, as tuples and by name."""
    return [
        conditions(seed=0),
        dict(zip(("tokens", "index", "mask"), conditions(seed=1), strict=True)),
        conditions(seed=2),
    ]


def evaluated(own: Any, shared: bool) -> Evaluation:
    """Return how a random model does on labelled batches."""
    torch.manual_seed(0)
    return evaluate(small_vit(), own, shared=shared)


def labelled() -> list[tuple[Tensor, Tensor]]:
    """Return the batches with random labels."""
    generator = torch.Generator().manual_seed(0)
    return [(x, torch.randint(10, (len(x),), generator=generator)) for x in batches()]


def costs(own: list[Tensor]) -> tuple[list[SiteCost], float]:
    """Return what the operands of a calibrated model cost, and the error of the whole."""
    prepared = prepare(fxquant.recipe("minmax", 4, 4))
    fxquant.calibrate(prepared, own, progress=False)
    found = fxquant.sensitivity(prepared, own, exact=3, joint=1, probes=2, progress=False)
    return list(found.records), found.joint[0].error


def find_expected() -> dict[str, Any]:
    """Return what one process gives over all batches."""
    torch.manual_seed(0)
    found: dict[str, Any] = {case: calibrated(case, batches()) for case in CASES}
    found["histogram"] = histogram_state(batches())
    found["table errors"] = table_errors(list(X.split(20)))
    found["reconstructed"] = reconstructed(batches())
    found["several inputs"] = {name: conditioned(name, several_inputs()) for name in ("ema", "ptq4vit")}
    found["one batch"] = calibrated("fqvit", batches((4,)))
    evaluation = evaluated(labelled(), shared=False)
    found["evaluation"] = (evaluation.top1, evaluation.top5, evaluation.predictions)
    found["codes"] = fxquant.quantize(small_vit_seeded(), batches((4,)), target="fake")(images())
    found["costs"] = costs(batches())
    with TemporaryDirectory() as folder:
        found["labels"] = made_labels(Path(folder))
    return found


def reconstructed(own: list[Tensor]) -> dict[str, Tensor]:
    """Return the state of a model reconstructed with `own` batches."""
    prepared = fxquant.calibrate(prepare(fxquant.recipe("minmax", 4, 4)), own, progress=False)
    fxquant.reconstruct(prepared, own, progress=False, iterations=2, batch_size=5, weight_lr=1e-4)
    return prepared.state_dict()


def made_labels(folder: Path) -> list[CropLabels]:
    """Return labels of six images, which go to three files."""
    from_first(lambda: make_images(folder / "data"))
    samples, out = read_image_tree(folder / "data").calibration, folder / "labels"
    make_labels(TinyTeacher(), samples, DATA_CONFIG, out, 3, images_per_shard=2)
    labels = open_labels(out)
    return [labels.read(file) for file in samples.files]


def small_vit_seeded() -> nn.Module:
    """Return the small ViT with all of its weights fixed."""
    torch.manual_seed(0)
    return small_vit(depth=1)


def work(number: int, folder: Path) -> None:
    """Join the group as rank `number`, run every check, and write down what failed."""
    torch.set_num_threads(1)
    sharing.WORTH = 0
    method = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=method, rank=number, world_size=WORLD, timeout=timedelta(minutes=2))
    expected = torch.load(folder / "expected.pt", weights_only=False) | {"folder": folder}
    failures: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(expected)
        except BaseException:
            failures[name] = traceback.format_exc()
    torch.save(failures, folder / f"{number}.pt")
    dist.destroy_process_group()


def check_statistics_and_searches_equal_those_of_one_process(expected: dict[str, Any]) -> None:
    for case in CASES:
        _assert_same(case, calibrated(case, list(shard(batches()))), expected[case])


def check_observers_that_do_not_summarise_see_every_batch(expected: dict[str, Any]) -> None:
    _assert_same("histogram", histogram_state(list(shard(batches()))), expected["histogram"])


def check_errors_of_tables_are_told_to_all(expected: dict[str, Any]) -> None:
    found = table_errors(list(shard(X.split(20))))
    assert [each is not None for each in found] == [False, False, True, False]
    assert found == expected["table errors"]


def check_several_inputs_are_shared_out(expected: dict[str, Any]) -> None:
    for recipe, wanted in expected["several inputs"].items():
        _assert_same(recipe, conditioned(recipe, list(shard(several_inputs()))), wanted)


def check_reconstruction_is_shared_out(expected: dict[str, Any]) -> None:
    for name, value in reconstructed(list(shard(batches()))).items():
        torch.testing.assert_close(value, expected["reconstructed"][name], rtol=1e-4, atol=1e-6)


def check_costs_of_operands_are_shared_out(expected: dict[str, Any]) -> None:
    records, joint = costs(list(shard(batches())))
    wanted, left = expected["costs"]
    assert joint == pytest.approx(left)
    for found, known in zip(records, wanted, strict=True):
        assert (found.name, found.codes) == (known.name, known.codes)
        assert found.cost == pytest.approx(known.cost)
        assert found.saves == (known.saves if known.saves is None else pytest.approx(known.saves, abs=1e-6))


def check_a_rank_without_a_batch_takes_part(expected: dict[str, Any]) -> None:
    own = list(shard(batches((4,))))
    _assert_same("one batch", calibrated("fqvit", own), expected["one batch"])
    codes = fxquant.quantize(small_vit_seeded(), own, target="fake")(images())
    assert torch.equal(codes, expected["codes"])


def check_evaluation_equals_that_of_one_process(expected: dict[str, Any]) -> None:
    found = evaluated(shard(labelled()), shared=True)
    top1, top5, predictions = expected["evaluation"]
    assert (found.top1, found.top5) == (top1, top5)
    assert torch.equal(found.predictions, predictions)
    assert evaluated(labelled()[:1], shared=False).count == 4  # of this rank alone


def check_bad_images_of_one_rank_are_refused_by_all(_: dict[str, Any]) -> None:
    bad = batches()
    bad[3][0, 0, 0, 0] = float("nan")
    for case in ("minmax", "ptq4vit", "noisyquant"):
        with pytest.raises(CalibrationError, match=r"input 'x', calibration batch 3: .* found NaN values"):
            calibrated(case, list(shard(bad)))
    bad[3] = torch.rand(4, 3, 8, 8)
    with pytest.raises(CalibrationError, match=r"calibration batch 3: expected shape \(B, 3, 32, 32\)"):
        calibrated("minmax", list(shard(bad)))
    for case in ("minmax", "ptq4vit"):
        with pytest.raises(CalibrationError, match="expected at least one calibration batch, found none"):
            calibrated(case, [])
    with pytest.raises(InputError, match=r"evaluate, batch 3: label 1. is not one of the model's 10 classes"):
        evaluated(shard([(x, y + 10 * (i == 3)) for i, (x, y) in enumerate(labelled())]), shared=True)


def check_a_loader_that_fails_on_one_rank_stops_all(_: dict[str, Any]) -> None:
    def load() -> Iterator[Tensor]:
        yield images()
        if rank() == 1:
            raise OSError("disk on fire")
        yield images()

    kind = OSError if rank() == 1 else FxquantError
    message = "^disk on fire" if rank() == 1 else "^rank 1 failed: OSError: disk on fire"
    for case in ("minmax", "ptq4vit"):
        with pytest.raises(kind, match=message):
            calibrated(case, load())  # type: ignore[arg-type]


def check_different_models_are_refused_until_one_is_broadcast(expected: dict[str, Any]) -> None:
    torch.manual_seed(rank())
    model = small_vit(depth=1)  # whose biases are drawn at random
    with pytest.raises(InputError, match="ranks 0 and 1 hold different models"):
        fxquant.calibrate(fxquant.prepare(model, fxquant.recipe("minmax")), shard(batches()), progress=False)
    broadcast_module(model)
    assert torch.equal(fxquant.quantize(model, list(shard(batches((4,)))), target="fake")(images()), expected["codes"])


def check_tensors_travel(_: dict[str, Any]) -> None:
    assert (rank(), world_size()) == (dist.get_rank(), WORLD)
    assert sum_over_ranks(torch.tensor([1.0, rank()])).tolist() == [2.0, 1.0]
    assert interleave(together(lambda: list(shard(range(5))))) == [0, 1, 2, 3, 4]


def check_the_first_rank_goes_first(_: dict[str, Any]) -> None:
    seen: list[int] = []
    assert first_then_others(lambda: seen.append(rank()) or "made") == "made"  # type: ignore[func-returns-value]
    assert seen == [rank()]


def check_what_the_first_rank_found_is_told_to_all(_: dict[str, Any]) -> None:
    assert from_first(lambda: {"rank": rank(), "tensor": torch.ones(2)})["rank"] == 0

    def fail() -> None:
        raise InputError(f"nothing there for {rank()}")

    with pytest.raises(InputError, match="nothing there for 0"):
        from_first(fail)


def check_every_rank_has_its_own_result_and_all_have_the_same_error(_: dict[str, Any]) -> None:
    assert on_every_rank(lambda: {"not": lambda: "picklable"}) is not None
    assert on_every_rank(rank) == rank()
    with pytest.raises(InputError, match="of rank 1 alone"):
        on_every_rank(lambda: _fail_on(1))


def _fail_on(number: int) -> None:
    if rank() == number:
        raise InputError(f"of rank {number} alone")


def check_the_first_rank_alone_shows_and_prints(_: dict[str, Any]) -> None:
    alone = rank() == 0
    with contextlib.redirect_stderr(io.StringIO()) as spoken:
        say("done")
    assert spoken.getvalue() == ("fxquant: done\n" if alone else "")
    with contextlib.redirect_stdout(io.StringIO()) as written, work_as_one("cpu") as device:
        print("said")
    assert (written.getvalue(), str(device)) == ("said\n" if alone else "", "cpu")
    assert world_size() == WORLD  # the group was there before and stays


def check_models_of_equal_sums_are_different(_: dict[str, Any]) -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]] if rank() == 0 else [[2.0, 1.0]]))
    with pytest.raises(InputError, match="ranks 0 and 1 hold different models"):
        refuse_different(model)


def check_batch_norms_are_those_of_the_joint_batch(_: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x, slope = torch.randn(6, 4, 5) * 3 + 50, torch.randn(6, 4, 5)
    wanted, found = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    part = slice(0, 4) if rank() == 0 else slice(4, 6)  # of unequal size
    whole, own = x.clone().requires_grad_(), x[part].clone().requires_grad_()
    torch.autograd.backward((wanted(whole) * slope).sum())
    result = BatchNorm(0.1, 1e-5).train()(own, found.running_mean, found.running_var, found.weight, found.bias)  # type: ignore[arg-type]
    torch.autograd.backward((result * slope[part]).sum())
    torch.testing.assert_close(own.grad, whole.grad[part], rtol=1e-4, atol=1e-5)  # type: ignore[index]
    torch.testing.assert_close(found.running_mean, wanted.running_mean)
    torch.testing.assert_close(found.running_var, wanted.running_var)
    for mine, all_of_it in ((found.weight.grad, wanted.weight.grad), (found.bias.grad, wanted.bias.grad)):
        torch.testing.assert_close(sum_over_ranks(mine), all_of_it, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]
    states = together(lambda: found.running_var)
    assert torch.equal(states[0], states[1])  # type: ignore[arg-type]


def check_scales_start_from_one_batch_of_the_first_rank(_: dict[str, Any]) -> None:
    prepared, alone = (fxquant.prepare_qat(small_vit_seeded(), None, images()).eval() for _ in range(2))
    initialise_scales(prepared, images(seed=rank()))
    alone(images())
    _assert_same("initial scales", prepared.state_dict(), alone.state_dict())


def check_ranks_share_out_the_files_of_labels(expected: dict[str, Any]) -> None:
    written: list[Path] = []

    def count(file: Path, *rest: Any) -> None:
        written.append(file)
        write_shard(file, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "write_shard", count)
        found = made_labels(expected["folder"])
    assert [[file.name[7:12] for file in each] for each in gather_objects(written)] == [["00000", "00002"], ["00001"]]
    assert all(equal(one, other) for one, other in zip(found, expected["labels"], strict=True))
    (elsewhere := expected["folder"] / f"rank {rank()}").mkdir()
    samples = read_image_tree(expected["folder"] / "data").calibration
    with pytest.raises(
        InputError, match=r"labels-00001\.safetensors' is gone: all processes need one and the same folder"
    ):
        make_labels(TinyTeacher(), samples, DATA_CONFIG, elsewhere, 3, images_per_shard=2)


def check_an_error_within_an_error_is_told_once(_: dict[str, Any]) -> None:
    def fail() -> None:
        if rank() == 0:
            together(lambda: 1)
            raise KeyError("own")
        together(lambda: 1)
        together(lambda: 1)  # where the error of rank 0 arrives

    with pytest.raises(KeyError if rank() == 0 else FxquantError, match="own"):
        together(fail)
    assert together(lambda: rank()) == [0, 1]


def _assert_same(case: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys(), case
    different = [name for name in found if not torch.equal(found[name], wanted[name])]
    assert not different, f"{case}: {len(different)} tensors differ, such as {different[:3]}"


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")
}
