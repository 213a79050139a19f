"""Rows of the ImageNet tables keep their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.imagenet.figure import Figure, Model, Synthesis
from bench.imagenet.jobs import Job


def test_rows_keep_their_names() -> None:
    """The file of an earlier version stays of use; what is new is named where it matters."""
    arguments: tuple[Any, ...] = ("published", 32, None, 0, "int8", (9, 6), True)
    plain = Figure("ptq4vit", "BasePTQ", Model("m", "tag", 0.0), 6, 6, 9.0, 8.0, "base_ptq", 32, "nobody")
    job = Job(plain, *arguments)
    assert job.key == "tag W6A6 base_ptq(published=true) 32 of 9 images on all of 6 seed=0 int8"
    assert job.float_key == "tag float on all of 6 seed=0 without 32"
    made = Job(replace(plain, a_bits=8, batch=8, synthesis=Synthesis((("lr", 0.1),))), *arguments)
    assert made.key == "tag W6A8 base_ptq(published=true) 32 synthetic(lr=0.1) images by 8 on all of 6 seed=0 int8"
    assert made.float_key == "tag float on all of 6"  # which leaves no image of the folder out
