"""Folders of labels are told apart; what is none is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fxquant.distillation import LabelKind, open_labels
from fxquant.distillation.published import PublishedLabels
from fxquant.errors import ConfigError, InputError
from tests.support.soft_labels import CLASSES, write_label


def test_published_labels_are_opened_by_kind_and_classes(tmp_path: Path) -> None:
    write_label(tmp_path / "n0" / "0.tar", LabelKind.SMOOTHING)
    source = open_labels(tmp_path, "smoothing", CLASSES)
    assert isinstance(source, PublishedLabels)
    assert (source.kind, source.num_classes) == (LabelKind.SMOOTHING, CLASSES)
    with pytest.raises(InputError, match="do not tell their kind and number of classes: give both"):
        open_labels(tmp_path, "smoothing")
    with pytest.raises(ConfigError, match="unknown kind of labels 'soft'"):
        open_labels(tmp_path, "soft", CLASSES)


def test_what_holds_no_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none' does not exist"):
        open_labels(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file' is a file"):
        open_labels(tmp_path / "file")
    with pytest.raises(
        InputError, match=r"expected packed labels \(labels.json\) or published ones .* found 1 other files"
    ):
        open_labels(tmp_path)
