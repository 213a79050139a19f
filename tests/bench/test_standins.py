"""The stand-ins: images that never change, training that repeats, outliers that change no function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import fxquant
from bench.standins.__main__ import main
from bench.standins.architectures import STANDINS, build_standin, load_standin, weights_file
from bench.standins.glyphs import CHARACTERS, CHUNK, PARTS, Glyphs, load_part
from bench.standins.outliers import Outliers, inject_outliers
from bench.standins.training import StandinTraining, recipe_for, save_weights, train_standin
from fxquant.errors import CheckpointError, ConfigError, InputError

NAMES = tuple(STANDINS)


@pytest.fixture(scope="module")
def few() -> Glyphs:
    return load_part("calibration", 96)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_drawn_the_same_every_time_whatever_its_length(name: str) -> None:
    short, long = load_part(name, 70), load_part(name, CHUNK + 1)
    assert tuple(short.images.shape) == (70, 1, 32, 32)
    assert short.images.dtype == torch.float32
    assert short.labels.tolist() == [position % len(CHARACTERS) for position in range(70)]
    assert torch.equal(short.images, long.images[:70])
    assert len(long) == CHUNK + 1


def test_no_two_parts_and_no_two_chunks_share_an_image() -> None:
    sums = torch.cat([load_part(name, 2 * CHUNK).images.double().sum(dim=(1, 2, 3)) for name in PARTS])
    assert len(sums.unique()) == len(sums) == 6 * CHUNK


def test_the_test_part_resolves_a_tenth_of_a_point() -> None:
    assert PARTS["test"].size >= 10_000
    assert len({part.stream for part in PARTS.values()}) == len(PARTS)


def test_images_are_about_normal() -> None:
    images = load_part("train", 2 * CHUNK).images
    assert images.isfinite().all()
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05


def test_drawing_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    load_part("test", 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "count"), [("valid", None), ("test", 0), ("test", 10**6)])
def test_a_part_that_is_not_there_is_refused(name: str, count: int | None) -> None:
    with pytest.raises(InputError, match=r"unknown part|count must be"):
        load_part(name, count)


@pytest.mark.parametrize("name", NAMES)
def test_a_standin_is_small_and_gives_logits(name: str, few: Glyphs) -> None:
    model = build_standin(name).eval()
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    with torch.no_grad():
        assert model(few.images[:2]).shape == (2, len(CHARACTERS))
    assert any(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert any("GELU" in type(module).__name__ for module in model.modules())
    assert all(f"{name}.bias" in model.state_dict() for name, _ in model.named_modules() if name.endswith("qkv"))


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_training_repeat_bit_for_bit(name: str, few: Glyphs) -> None:
    torch.use_deterministic_algorithms(True)
    before = torch.random.get_rng_state()
    recipe = StandinTraining(epochs=2 / 3, batch_size=32)
    one, again, other = (train_standin(name, few, r) for r in (recipe, recipe, recipe_for(name, 1, 2 / 3)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not one.training
    assert _same(one, again)
    assert not _same(one, other)


def test_training_command_writes_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.standins.__main__.load_part", lambda name, count=None: load_part(name, 64))
    command = ["vit", "--seed", "3", "--epochs", "1", "--out", str(tmp_path / "new")]
    main(command)
    file = weights_file("vit", 3, tmp_path / "new")
    assert [file] == list(file.parent.iterdir())
    with safe_open(file, framework="pt") as opened:
        origin = json.loads(opened.metadata()["origin"])
    assert (origin["seed"], origin["epochs"], origin["threads"]) == (3, 1.0, 1)
    assert 0 <= origin["top1"] <= 100
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    main(command)
    assert file.stat().st_mtime_ns == written
    main([*command, "--force"])
    assert file.stat().st_mtime_ns != written
    assert file.read_bytes() == content
    assert not load_standin("vit", 3, file.parent).training


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("bench.standins.training.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(nn.Linear(1, 1), tmp_path / "weights.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_missing_weights_name_the_command_that_trains_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m bench\.standins swin --seed 7"):
        load_standin("swin", 7, tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_weights(build_standin("deit"), weights_file("vit", 0, tmp_path), {})
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_standin("vit", 0, tmp_path)


def test_unknown_names_and_empty_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="vit, deit, swin"):
        build_standin("resnet")
    with pytest.raises(InputError, match="vit, deit, swin"):
        recipe_for("resnet")
    with pytest.raises(ConfigError, match="must be positive"):
        StandinTraining(epochs=0)
    with pytest.raises(SystemExit):
        main(["resnet"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "outliers", [Outliers(), Outliers(norm=0, value=0), Outliers(hidden=0), Outliers(factor=(64, 64))]
)
def test_outliers_change_no_function(name: str, outliers: Outliers, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    before = [p.clone() for p in model.parameters()]
    injected = inject_outliers(model, outliers, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        expected, found = model(few.images[:16]), injected(few.images[:16])
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert _same(injected, inject_outliers(model, outliers, seed=1))
    assert not _same(injected, inject_outliers(model, outliers, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_outliers_stand_out_before_every_product_of_the_blocks(name: str, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    clean = _spreads(model, few.images)
    injected = _spreads(inject_outliers(model, Outliers(factor=(32, 32))), few.images)
    for product, spread in injected.items():
        assert spread > 4 * clean[product], product
    assert {product.rsplit(".", 1)[1] for product in injected} >= {"qkv", "proj", "fc1", "fc2"}


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_outliers_cost_plain_eight_bit_quantisation_its_accuracy(name: str, few: Glyphs) -> None:
    model = _perturb(build_standin(name).eval())
    clean, injected = (_error(m, few.images[:32]) for m in (model, inject_outliers(model)))
    assert clean < 0.1
    assert injected > 3 * clean


def test_outliers_need_blocks_channels_and_sense() -> None:
    with pytest.raises(InputError, match="found none in a Linear"):
        inject_outliers(nn.Linear(2, 2))
    with pytest.raises(InputError, match="at least 1000 channels"):
        inject_outliers(build_standin("vit"), Outliers(norm=1000))
    for wrong in ({"norm": -1}, {"factor": (0.0, 1.0)}, {"factor": (8.0, 4.0)}):
        with pytest.raises(ConfigError, match="must not be negative"):
            Outliers(**wrong)  # type: ignore[arg-type]


def _perturb(model: nn.Module) -> nn.Module:
    """Give every parameter, above all the biases and norms that start even, a random part."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return model


def _same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def _spreads(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure how far the widest channel stands out of the median one, at the input of each linear layer of a block."""
    spreads: dict[str, float] = {}

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        widest = inputs[0].flatten(0, -2).abs().amax(dim=0)  # (K,)
        spreads[name] = float(widest.max() / widest.median())

    linears = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and "head" not in n)
    hooks = [m.register_forward_pre_hook(lambda _, inputs, n=n: note(n, inputs)) for n, m in linears]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return spreads


def _error(model: nn.Module, images: Tensor) -> float:
    """Measure the relative error of the logits that naive W8A8 makes."""
    quantized = fxquant.quantize(model, [images], recipe="minmax", w_bits=8, a_bits=8, target="fake")
    with torch.no_grad():
        expected = model(images)
        return float((quantized(images) - expected).norm() / expected.norm())
