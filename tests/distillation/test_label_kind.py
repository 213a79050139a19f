"""Kinds of labels: their names, and which can be read as which."""

from __future__ import annotations

import pytest

from fxquant.distillation import LabelKind
from fxquant.distillation.label_kind import kind_names
from fxquant.errors import ConfigError


def test_every_name_is_taken_and_an_unknown_one_is_refused_with_the_names() -> None:
    assert [LabelKind(name) for name in kind_names()] == [*LabelKind, LabelKind.MARGINAL_RENORM]
    assert LabelKind("marginal_renorm_k5") is LabelKind.MARGINAL_RENORM
    with pytest.raises(ConfigError, match=r"unknown kind of labels 'soft': expected one of ori, hard, .*_renorm_k5"):
        LabelKind("soft")


def test_only_kinds_that_are_stored_alike_are_read_as_each_other() -> None:
    pairs = {(a.value, b.value) for a in LabelKind for b in LabelKind if a is not b and a.stored_like(b)}
    one, other = "marginal_smoothing_k5", "marginal_renorm"
    assert pairs == {(one, other), (other, one)}
