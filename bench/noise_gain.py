"""
What a noisy bias gains, layer by layer: on the images it was fitted on, and on others.

Run ``python -m bench.noise_gain`` to write ``bench/results/noise_gain.json``. For each layer of a stand-in it is the squared
error of the layer's output with the noise over that without, the input being that of the float model: 1 is no gain.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from bench.accuracy.measure import build_model, draw_calibration
from bench.accuracy.table import OUTLIERS
from bench.harness.results import write_results
from bench.standins import STANDINS, load_part
from fxquant.graph.meta import record_of
from fxquant.observers.base import Observer

WIDTHS = {"W8A8": (8, 8), "W6A6": (6, 6), "W4A4": (4, 4)}


class LayerErrors(fx.Interpreter):
    """Run a calibrated graph as the float model and sum up each noisy linear layer's squared errors, without and with noise."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.errors: dict[fx.Node, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def run_node(self, n: fx.Node) -> Any:
        """Compare a linear layer whose input has a noise."""
        result = super().run_node(n)
        record = record_of(n)
        if n.target is F.linear and record is not None and record.noise is not None:
            (x, weight, *_), _ = self.fetch_args_kwargs_from_env(n)
            inputs, weights = (self.submodules[str(a.target)] for a in n.args[:2])  # type: ignore[union-attr]
            codes = weights.fake_quantize(weight, weights.calculate_qparams())
            expected, found = F.linear(x, weight), []
            for noise in (torch.zeros_like(inputs.noise), inputs.noise):
                rounded = inputs.fake_quantize(x + noise, inputs.calculate_qparams()) - noise
                found.append((F.linear(rounded, codes) - expected).double().square().sum())
            self.errors[n] += torch.stack(found)
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let observers pass their input on as it is."""
        return (
            args[0] if isinstance(self.submodules[str(target)], Observer) else super().call_module(target, args, kwargs)
        )


def measure(
    model: nn.Module, config: fxquant.QuantConfig, calibration: Tensor, test: Tensor, facts: dict[str, Any]
) -> Any:
    """Return a row for each noisy linear layer."""
    prepared = fxquant.prepare(fxquant.trace(model), config)
    fxquant.calibrate(prepared, calibration.split(8), progress=False)
    ratios = []
    for images in (calibration, test):
        layers = LayerErrors(prepared)
        with torch.no_grad():
            for batch in images.split(64):
                layers.run(batch)
        ratios.append({node: round(float(e[1] / e[0]), 4) for node, e in layers.errors.items()})
    for node, ratio in ratios[0].items():
        record = record_of(node)
        role = record.operands[0].role.value if record is not None else ""
        yield facts | {
            "layer": str(record and record.label),
            "input": role,
            "fitted_on": ratio,
            "others": ratios[1][node],
        }


def main() -> None:
    """Measure all stand-ins at all widths from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STANDINS), choices=list(STANDINS))
    parser.add_argument("--calib", type=int, default=32, metavar="N", help="calibration images (%(default)s)")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="other images (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    calibration = draw_calibration(load_part("calibration").images, options.calib, 0)
    test = load_part("test", options.images).images
    rows: list[dict[str, Any]] = []
    for name in options.models:
        for outliers in OUTLIERS:
            for bits, widths in WIDTHS.items():
                facts = {"model": name, "outliers": outliers, "bits": bits}
                config = fxquant.recipe("noisyquant_ptq4vit", *widths)
                rows += measure(build_model(name, outliers), config, calibration, test, facts)
                print(name, outliers, bits, _by_input(r for r in rows if facts.items() <= r.items()), flush=True)
    sizes = {"calib": options.calib, "images": options.images, "threads": options.threads}
    write_results("noise_gain", rows, recipe="noisyquant_ptq4vit", seed=0, by_input=_by_input(rows), **sizes)


def _by_input(rows: Any) -> dict[str, dict[str, float]]:
    """Return the mean ratios of the layers that read the same kind of input."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["input"]].append(row)
    kinds = ("fitted_on", "others")
    return {role: {k: round(sum(r[k] for r in mine) / len(mine), 3) for k in kinds} for role, mine in found.items()}


if __name__ == "__main__":
    main()
