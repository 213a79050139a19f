"""Evidence of what ran, and packages that are missing."""

from __future__ import annotations

from fxquant.benchmark.competitor import Competitor, Evidence
from fxquant.benchmark.competitors import COMPETITORS


def test_products_are_counted_by_dtype_and_kernel() -> None:
    evidence = Evidence.of([("gemm", "int8"), ("gemm", "int8"), ("gemm", "float32"), ("sdpa", "float32")])
    assert evidence.products == {"int8": 2, "float32": 2}
    assert evidence.kernels == {"gemm int8": 2, "gemm float32": 1, "sdpa float32": 1}
    assert evidence.total == 4
    assert evidence.objection("int8") is None
    assert evidence.objection("float32") is None


def test_less_than_half_is_not_what_the_name_says() -> None:
    evidence = Evidence.of([("gemm", "int8")] + [("gemm", "float32")] * 2)
    assert evidence.objection("int8") == "not int8: 1 of 3 products; it ran gemm int8 x1, gemm float32 x2"
    assert evidence.objection("bfloat16") is not None
    assert evidence.objection("float32") is None


def test_nothing_found_proves_nothing() -> None:
    assert Evidence.of([]).objection("int8") == "not int8: 0 of 0 products; it ran no matrix product found"


def test_missing_packages_are_found_without_importing() -> None:
    competitor = Competitor("x", "", "int8", COMPETITORS[0].build, needs=("torch", "no_such_package_here"))
    assert competitor.missing() == ["no_such_package_here"]


def test_names_are_unique_and_say_what_they_are() -> None:
    names = [competitor.name for competitor in COMPETITORS]
    assert len(set(names)) == len(names)
    assert all(competitor.summary for competitor in COMPETITORS)
    for competitor in COMPETITORS:
        if "fp32" in competitor.name:
            assert competitor.precision == "float32"
