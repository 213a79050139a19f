"""Which parts of a model nobody looked into, and which products stay float, from its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxquant.diagnosis.section import DoctorSection
from fxquant.inspection.report import ProductReport, Report, kinds_of_codes

_COUNTED = 0.001  # of the multiply-accumulates, from which on missing ones are told
_NAMED = 3  # products of a group


def check_capture(report: Report) -> DoctorSection:
    """Return what of the model was not verified, or is a call that nothing looks into."""
    capture = report.capture
    opaque = [r for r in report if r.product == "opaque"]
    warnings = list(_unverified(report))
    if opaque:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in opaque[:_NAMED])
        more = f" and {len(opaque) - _NAMED} more" if len(opaque) > _NAMED else ""
        warnings.append(f"{len(opaque)} calls are opaque and stay as they are: {reasons}{more}")
    known = capture is not None and capture.verified
    lines = ["the graph was compared with the model, and gives the same"] if known else []
    figures = {"verified": known, "opaque": [r.name for r in opaque]}
    return DoctorSection("capture", "Is the whole model in the graph?", tuple(warnings), tuple(lines), figures=figures)


def check_products(report: Report) -> DoctorSection:
    """Return which products stay float, by reason."""
    total = sum(r.macs or 0 for r in report) or 1
    groups: dict[str, list[ProductReport]] = {}
    for record in report:
        if record.codes is None:
            groups.setdefault(record.reason or "simulated: the graph was converted with target fake", []).append(record)
    ordered = sorted(groups.items(), key=lambda item: -_macs(item[1]))
    rows = tuple((str(len(found)), f"{_macs(found) / total:.1%}", reason, _names(found)) for reason, found in ordered)
    warnings = tuple(
        f"{len(wanted)} products that the config quantises stay float, {_macs(wanted) / total:.1%} of multiply-accumulates: "
        f"{reason}"
        for reason, found in ordered
        if (wanted := [r for r in found if r.requested and r.product != "opaque"]) and report.stage == "lowered"
    )
    lowered, kinds = sum(r.codes is not None for r in report), kinds_of_codes(report)
    line = f"{lowered} of {len(report)} products on {kinds}, {report.coverage:.1%} of multiply-accumulates"
    header = ("products", "operations", "reason", "such as")
    figures = {"int8_coverage": report.coverage, "int8": lowered, "products": len(report)}
    return DoctorSection(
        "products", "Which products stay float, and why?", warnings, (line,), header, rows, None, figures
    )


def _unverified(report: Report) -> Iterator[str]:
    capture = report.capture
    if capture is None:
        yield "nothing is known of how the graph was captured: it was not made by fxquant.trace"
        return
    if not capture.verified:
        yield "the graph was not compared with its model: give fxquant.trace an example input"
    if capture.missing is not None and abs(capture.missing) >= _COUNTED:
        yield f"the model computes {capture.missing:+.1%} multiply-accumulates beyond the products in the graph"


def _macs(found: Sequence[ProductReport]) -> int:
    return sum(r.macs or 0 for r in found)


def _names(found: Sequence[ProductReport]) -> str:
    return ", ".join(r.name for r in found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
