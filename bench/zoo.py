"""
Which of timm's transformers trace, prepare, convert and run, and how much of each runs on int8.

``python bench/zoo.py`` walks one small variant of each family, with random weights, a process each, and writes
``bench/results/zoo.json`` and ``docs/zoo.md``. Rows that are there already are kept unless ``--fresh``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from harness import RESULTS, write_results
from torch import Tensor, nn

import fxquant
from fxquant.numerics import sqnr

DOCS = Path(__file__).parents[1] / "docs" / "zoo.md"
TIME_LIMIT = 900
FAMILIES: dict[str, str] = {
    "ViT": "vit_tiny_patch16_224",
    "ViT (register tokens)": "vit_little_patch16_reg4_gap_256",
    "ViT (DINOv2)": "vit_small_patch14_dinov2",
    "ViT (SigLIP)": "vit_base_patch16_siglip_224",
    "ViT (CLIP)": "vit_base_patch32_clip_224",
    "ViT relpos": "vit_relpos_small_patch16_224",
    "ViT SAM": "samvit_base_patch16_224",
    "ViT hybrid": "vit_tiny_r_s16_p8_224",
    "NaFlexViT": "naflexvit_base_patch16_gap",
    "ViTamin": "vitamin_small_224",
    "DeiT": "deit_tiny_patch16_224",
    "DeiT distilled": "deit_tiny_distilled_patch16_224",
    "DeiT-3": "deit3_small_patch16_224",
    "BEiT": "beit_base_patch16_224",
    "BEiTv2": "beitv2_base_patch16_224",
    "EVA": "eva02_tiny_patch14_224",
    "DINOv3": "vit_small_patch16_dinov3",
    "Swin": "swin_tiny_patch4_window7_224",
    "SwinV2": "swinv2_tiny_window8_256",
    "SwinV2 CR": "swinv2_cr_tiny_ns_224",
    "CaiT": "cait_xxs24_224",
    "PiT": "pit_ti_224",
    "PVTv2": "pvt_v2_b0",
    "DaViT": "davit_tiny",
    "GCViT": "gcvit_xxtiny",
    "XCiT": "xcit_nano_12_p16_224",
    "Hiera": "hiera_tiny_224",
    "MobileViT": "mobilevit_xxs",
    "MobileViTv2": "mobilevitv2_050",
    "MaxViT": "maxvit_tiny_tf_224",
    "CoAtNet": "coatnet_nano_rw_224",
    "Twins": "twins_pcpvt_small",
    "Twins SVT": "twins_svt_small",
    "LeViT": "levit_128s",
    "TinyViT": "tiny_vit_5m_224",
    "MViTv2": "mvitv2_tiny",
    "NeXtViT": "nextvit_small",
    "EfficientFormer": "efficientformer_l1",
    "EfficientFormerV2": "efficientformerv2_s0",
    "FastViT": "fastvit_t8",
    "EdgeNeXt": "edgenext_xx_small",
    "CrossViT": "crossvit_tiny_240",
    "ConViT": "convit_tiny",
    "VOLO": "volo_d1_224",
    "TNT": "tnt_s_legacy_patch16_224",
    "NesT": "nest_tiny",
    "CoaT": "coat_tiny",
    "CoaT-Lite": "coat_lite_tiny",
    "FocalNet": "focalnet_tiny_srf",
    "RepViT": "repvit_m0_9",
    "SwiftFormer": "swiftformer_xs",
    "SHViT": "shvit_s1",
    "EfficientViT (MIT)": "efficientvit_b0",
    "EfficientViT (MSRA)": "efficientvit_m0",
    "PoolFormer": "poolformer_s12",
    "CAFormer": "caformer_s18",
    "Sequencer": "sequencer2d_s",
    "Visformer": "visformer_tiny",
    "BoTNet": "botnet26t_256",
    "Halo": "halonet26t",
    "LambdaNet": "lambda_resnet26t",
    "PatchConvNet (MLP-Mixer)": "mixer_s32_224",
    "ConvMixer": "convmixer_768_32",
    "InceptionNeXt": "inception_next_atto",
    "iFormer": "iformer_t",
    "StarNet": "starnet_s1",
}


def walk(name: str) -> dict[str, Any]:
    """Take one model through all verbs and return its row; `stopped` says at which verb, and why, it ended."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = timm.create_model(name).eval()
    _give_zero_weights_values(model)
    size = timm.data.resolve_model_data_config(model)["input_size"]
    images = torch.randn(4, *size)
    row: dict[str, Any] = {"model": name, "capture": None, "exact": None, "coverage": None, "sqnr_db": None}
    verb = "trace"
    try:
        gm, row["capture"] = _trace(model, images[:2])
        with torch.no_grad():
            row["exact"] = all(_equal(gm(images[:n]), model(images[:n])) for n in (1, 3))
        verb = "prepare"
        prepared = fxquant.prepare(gm, fxquant.recipe("default"))
        verb = "calibrate"
        fxquant.calibrate(prepared, [images[:2], images[2:]], progress=False)
        verb = "convert"
        converted = fxquant.convert(prepared)
        verb = "run"
        with torch.no_grad():
            row["sqnr_db"] = round(sqnr(_first(model(images[:3])), _first(converted(images[:3]))), 1)
        report = fxquant.report(converted)
        row["coverage"] = round(report.coverage, 4)
        row["kept_float"] = _reasons(report)
    except Exception as error:
        row["stopped"] = f"{verb}: {type(error).__name__}: {str(error)[:600]}"
    return row


def _trace(model: nn.Module, images: Tensor) -> tuple[Any, str]:
    try:
        return fxquant.trace(model), "symbolic"
    except fxquant.UnsupportedGraphError:
        return fxquant.trace(model, images), "export"


def _give_zero_weights_values(model: nn.Module) -> None:
    """Random weights leave some layers at zero, whose output is constant: give these the values training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not bool(parameter.any()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def _first(value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else value[0]
    return tensor.detach()


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return all(_equal(a, b) for a, b in zip(one, other, strict=True))


def _reasons(report: fxquant.Report) -> dict[str, float]:
    """Return the share of multiply-accumulates that stay float, by reason."""
    total = sum(r.macs or 0 for r in report) or 1
    shares: Counter[str] = Counter()
    for record in report:
        if not record.int8:
            shares[record.reason or "float"] += record.macs or 0
    return {reason: round(macs / total, 4) for reason, macs in shares.most_common()}


def render(rows: dict[str, dict[str, Any]]) -> str:
    """Return docs/zoo.md."""
    done = [row for row in rows.values() if "stopped" not in row]
    exact = sum(bool(row["exact"]) for row in rows.values())
    lines = [
        "# Models",
        "",
        "One small variant of each family in timm, random weights, recipe `default` at W8A8, calibrated on four random images.",
        "Written by `python bench/zoo.py`.",
        "",
        f"{len(done)} of {len(rows)} trace, prepare, convert and run; {exact} trace bit-exactly at batch sizes 1 and 3.",
        "",
        "- **capture**: `symbolic` needs no example; `export` needs `fxquant.trace(model, example_inputs=images)`.",
        "- **exact**: the graph gives exactly what the model gives, at two batch sizes it was not traced with.",
        "- **int8**: share of the multiply-accumulates of matrix products that run on int8.",
        "- **SQNR**: of the int8 logits against the float ones, on random weights and random images: a check that nothing is "
        "broken.",
        "",
        "| family | model | capture | exact | int8 | SQNR, dB | stays float |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(family, row) for family, row in rows.items()]
    return "\n".join(lines) + "\n"


def _line(family: str, row: dict[str, Any]) -> str:
    if "stopped" in row:
        reason = " ".join(str(row["stopped"]).split())[:200].replace("|", "/")
        return f"| {family} | `{row['model']}` | {row['capture'] or 'refused'} | | | | stopped at {reason} |"
    reasons = "; ".join(f"{share:.0%} {reason}" for reason, share in row["kept_float"].items() if share >= 0.005)
    exact = "yes" if row["exact"] else "to rounding"
    cells = (family, f"`{row['model']}`", row["capture"], exact, f"{row['coverage']:.1%}", str(row["sqnr_db"]), reasons)
    return f"| {' | '.join(cells)} |"


def _walk_in_process(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "capture": None, "exact": None, "stopped": f"time limit of {TIME_LIMIT} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"model": name, "capture": None, "exact": None, "stopped": f"exit status {done.returncode}: {last}"}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def main() -> None:
    """Walk the families from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="families to walk")
    parser.add_argument("--fresh", action="store_true", help="walk again what the results hold already")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(walk(options.one)))
        return
    file = RESULTS / "zoo.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    known = set(timm.list_models())
    for family, name in FAMILIES.items():
        wanted = family in options.only if options.only else options.fresh or family not in rows
        if name not in known or not wanted:
            continue
        rows[family] = _walk_in_process(name)
        print(family, rows[family].get("stopped") or f"int8 {rows[family]['coverage']:.1%}", flush=True)
        rows = {key: rows[key] for key in FAMILIES if key in rows}
        write_results("zoo", rows, seed=0)
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(render(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
