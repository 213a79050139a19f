"""`bench.synthesis`: both loops compute the same loss and gradient."""

from __future__ import annotations

from bench import synthesis


def test_both_forms_agree() -> None:
    row = synthesis.compare("deit_tiny_patch16_224", 2, 1, img_size=32)
    assert row["loss_difference"] < 1e-4
    assert row["gradient_difference"] < 1e-3
    assert row["results"]["fxquant"]["median_ms"] > 0


def test_the_projection_counts_all_steps() -> None:
    row = synthesis.project("deit_tiny_patch16_224", 2, 1, img_size=32)
    assert row["steps"] == 1000
    assert abs(row["projected_hours"] - row["seconds_per_step"] * 1000 / 3600) < 1e-3
