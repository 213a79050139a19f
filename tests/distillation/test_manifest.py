"""The index of packed labels comes back as it was written, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fxquant.distillation import LabelKind
from fxquant.distillation.manifest import Manifest, ShardIndex, offsets, read_manifest, write_manifest
from fxquant.errors import InputError

INDEX = Manifest(
    LabelKind.SMOOTHING,
    7,
    (ShardIndex("a.safetensors", ("x/0", "x/ü\udc80"), (3, 3)), ShardIndex("b.safetensors", ("y/1",), (4,))),
    {"teacher": None, "scale": [0.1, 1.0]},
)


def test_an_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, INDEX)
    assert read_manifest(tmp_path) == INDEX
    assert offsets(INDEX).tolist() == [0, 3, 6, 10]
    assert (INDEX.images, INDEX.crops) == (3, 10)
    assert [shard["counts"] for shard in json.loads((tmp_path / "labels.json").read_text())["shards"]] == [3, 4]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fxquant_labels", 2, "has format 2, this fxquant reads 1"),
        ("kind", "soft", "is damaged: ConfigError unknown kind"),
        ("num_classes", None, "is damaged"),
        ("images", 4, "is damaged: its numbers of images and crops"),
        ("shards", [{"file": "../a", "names": [], "counts": []}], "names and counts of '../a'"),
        ("shards", [{"file": "a", "names": ["x"], "counts": [1, 2]}], "names and counts of 'a'"),
        ("shards", [{"file": "a", "names": ["x"], "counts": [-1]}], "names and counts of 'a'"),
        ("shards", [{"file": "a"}], "is damaged: KeyError 'names'"),
        ("shards", [3], "is damaged: TypeError"),
    ],
)
def test_a_damaged_index_is_refused_by_name(key: str, value: object, message: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, INDEX)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(file) in str(caught.value)


def test_what_is_no_index_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read '.*labels.json': No such file"):
        read_manifest(tmp_path)
    for text in ("", "{}", "[]", "nonsense", "ü"):
        (tmp_path / "labels.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="is not the index of a folder of labels, or damaged"):
            read_manifest(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_manifest(tmp_path / "none", INDEX)
