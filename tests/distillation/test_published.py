"""Published label files: what they hold, how they are found, what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fxquant.distillation import LabelKind
from fxquant.distillation.published import PublishedLabels, read_label_file
from fxquant.errors import InputError
from tests.distillation.test_array_pickle import Command
from tests.support.soft_labels import CLASSES, KINDS, equal, make_boxes, make_output, write_label

K5 = LabelKind.MARGINAL_SMOOTHING_K5


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_as_it_was_written(kind: LabelKind, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    write_label(file, kind, 7, _use_new_zipfile_serialization=zipped)
    coords, flips, targets = read_label_file(file, kind, CLASSES)
    wanted_coords, wanted_flips = make_boxes(7)
    assert np.array_equal(coords.numpy(), wanted_coords)
    assert np.array_equal(flips.numpy(), wanted_flips)
    assert (coords.dtype, flips.dtype, targets.kind) == (torch.float32, torch.bool, kind)
    output = make_output(kind, 7)
    if kind is LabelKind.ORI:
        assert torch.equal(targets.dense(), output)
    elif kind is LabelKind.HARD:
        assert torch.equal(targets.classes, output[:, None])
    else:
        rows = output.reshape(7, 2, -1)
        assert torch.equal(targets.classes, rows[:, 0].long())
        assert torch.equal(targets.probabilities, rows[:, 1])


def test_tensors_in_place_of_arrays_are_taken_too(tmp_path: Path) -> None:
    coords, flips = map(torch.from_numpy, make_boxes(3))
    torch.save([coords.double(), flips.to(torch.uint8), make_output(K5, 3).double()], tmp_path / "a.tar")
    write_label(tmp_path / "b.tar", K5, 3)
    assert equal(*(read_label_file(tmp_path / f"{name}.tar", K5, CLASSES) for name in "ab"))


def change(position: int, value: Any) -> list[Any]:
    items: list[Any] = [*make_boxes(3), make_output(K5, 3)]
    items[position] = value
    return items


def with_entry(values: Any, index: Any, entry: float) -> Any:
    values[index] = entry
    return values


BOXES, OUTPUT = make_boxes(3)[0], make_output(K5, 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"coords": 1}, "expected a list of coords, flips and output in .* found dict"),
        ([1, 2], "found 2 items"),
        ([torch.zeros(1).expand(10**9, *s) for s in ((4,), (), (2, 5))], "fewer that a tensor of no stride repeats"),
        (change(0, None), "expected arrays or tensors of numbers in .* found NoneType"),
        (
            change(0, BOXES[:2]),
            r"of shapes \(2, 4\), \(2,\), \(2, 2, 5\) .* found \(2, 4\), \(3,\), \(3, 2, 5\); check",
        ),
        (change(2, OUTPUT[:, :, :4]), r"found \(3, 4\), \(3,\), \(3, 2, 4\)"),
        (change(2, OUTPUT[:, 0]), r"found \(3, 4\), \(3,\), \(3, 5\)"),
        ([BOXES[:0], np.zeros(0, bool), OUTPUT[:0]], r"found \(0, 4\)"),
        (change(0, with_entry(BOXES.copy(), (1, 2), 1.5)), "crops inside the image, .* found .*1.5, .* in row 1"),
        (change(0, with_entry(BOXES.copy(), (1, 0), np.nan)), "found nan, .* in row 1"),
        (change(0, with_entry(BOXES.copy(), (0, 3), 0)), "in row 0"),
        (change(2, with_entry(OUTPUT.clone(), (0, 0, 1), 0.5)), "class indices, found fractions"),
        (change(2, with_entry(OUTPUT.clone(), (0, 0, 1), CLASSES)), "classes from 0 to 11, found 12; check the number"),
        (change(2, with_entry(OUTPUT.clone(), (0, 0, 1), -1)), "found -1"),
        (
            change(2, with_entry(OUTPUT.clone(), (2, 0), 3)),
            "expected different classes in each row, found 3, 3.* row 2",
        ),
        (
            change(2, with_entry(OUTPUT.clone(), (2, 1, 0), 9.5)),
            "probabilities that sum to at most 1, found 9.5.* row 2",
        ),
        (change(2, with_entry(OUTPUT.clone(), (2, 1, 0), np.nan)), "found nan, .* in row 2"),
        (change(2, OUTPUT.to(torch.complex64)), "found a tensor of torch.complex64"),
    ],
)
def test_what_a_file_should_not_hold_is_refused_by_name(value: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.tar"
    torch.save(value, file)
    with pytest.raises(InputError, match=message) as caught:
        read_label_file(file, K5, CLASSES)
    assert str(file) in str(caught.value)


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    file, touched = tmp_path / "bad.tar", tmp_path / "touched"
    for zipped in (True, False):
        torch.save(change(1, Command(touched)), file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"bad.tar' as a label file: it asks for \w+\.system, which is not run"):
            read_label_file(file, K5, CLASSES)
    assert not touched.exists()


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "bad.tar"
    write_label(file, K5)
    whole = file.read_bytes()
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:200]):
        file.write_bytes(data)
        with pytest.raises(InputError, match=re.escape(f"cannot read {str(file)!r} as a label file: ")):
            read_label_file(file, K5, CLASSES)
    with pytest.raises(InputError, match="No such file"):
        read_label_file(tmp_path / "none.tar", K5, CLASSES)


def test_labels_are_found_by_the_last_four_names_or_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tmp_path / "labels"
    write_label(labels / "imagenet" / "train" / "n1" / "n1.0.tar", K5)
    for folder in (labels, labels / "imagenet", labels / "imagenet" / "train"):
        source = PublishedLabels(folder, K5, CLASSES)
        assert source.count(tmp_path / "data" / "imagenet" / "train" / "n1" / "n1.0.JPEG") == 9
    monkeypatch.chdir(tmp_path)
    assert PublishedLabels("labels/imagenet/train", K5, CLASSES).count(Path("n1/n1.0.png")) == 9


def test_another_name_of_the_data_set_is_told_with_the_folder_to_give(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    write_label(labels / "imagenet" / "train" / "n1" / "0.tar", K5)
    source = PublishedLabels(labels, K5, CLASSES)
    with pytest.raises(
        InputError, match=rf"at 'ilsvrc' in .* but at .*give '{labels / 'imagenet'}' as folder of labels"
    ):
        source.count(Path("/data/ilsvrc/train/n1/0.JPEG"))
    with pytest.raises(InputError, match=rf"give '{labels / 'imagenet' / 'train'}' as folder of labels"):
        source.count(Path("/data/ilsvrc/images/n1/0.JPEG"))
    with pytest.raises(InputError, match=r"expected '.*n2/0.tar', or from 'train' or 'n2' on; .* holds 'imagenet'"):
        source.count(Path("/data/ilsvrc/train/n2/0.JPEG"))


def test_rows_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    image = tmp_path / "n1" / "0.png"
    write_label(image.with_suffix(".tar"), K5)
    source = PublishedLabels(tmp_path, K5, CLASSES)
    whole = source.read(image)
    part = source.read(image, [4, 0])
    assert torch.equal(part.coords, whole.coords[[4, 0]])
    assert torch.equal(part.targets.dense(), whole.targets.dense()[[4, 0]])
    for rows in ([9], [-1]):
        with pytest.raises(InputError, match="expected crops 0 to 8"):
            source.read(image, rows)
