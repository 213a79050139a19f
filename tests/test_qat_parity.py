"""One training step of the published VVTQ code, recorded, against ours: scales, logits, loss, gradients, the step itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, fx, nn

import fxquant
from fxquant.config.layer_spec import LayerSpec
from fxquant.config.quant_config import QuantConfig
from fxquant.models import SReT
from fxquant.observers import LearnedStepQuantizer
from fxquant.training.regulariser import variation_regulariser

DATA = Path(__file__).parent / "data"
RUNS = [("deit", "w4a4_reg"), ("deit", "w3a3_offset_mixed"), ("swin", "w4a4_reg"), ("sret", "w4a4_reg")]
# The published names of activation quantisers: of the product that reads the value, its operand here.
SITES = {
    "attn.quant_input": "attn_qkv_input",
    "attn.quant_q": "attn_qk_query",
    "attn.quant_k": "attn_qk_key",
    "attn.quant_v": "attn_pv_value",
    "attn.quant_attn": "attn_pv_probs",
    "attn.quant_output": "attn_proj_input",
    "mlp.quant1": "mlp_fc1_input",
    "mlp.quant2": "mlp_fc2_input",
    "patch_embed.quant": "patch_embed_proj_input",
}


class Recorded:
    """One recorded configuration of one model."""

    def __init__(self, model: str, run: str) -> None:
        file = DATA / f"vvtq_step_{model}.safetensors"
        self.tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        self.model, self.run = model, run
        self.options = json.loads(metadata[run])
        self.kwargs = json.loads(metadata["timm_kwargs" if "timm_kwargs" in metadata else "kwargs"])
        self.metadata = metadata

    def __getitem__(self, name: str) -> Tensor:
        value = self.tensors[f"{self.run}/{name}"] if f"{self.run}/{name}" in self.tensors else self.tensors[name]
        return value.float() if value.is_floating_point() else value

    def under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        start = f"{self.run}/{prefix}/"
        yield from ((k.removeprefix(start), v) for k, v in self.tensors.items() if k.startswith(start))

    def build(self) -> nn.Module:
        state = {k.removeprefix("state/"): v for k, v in self.tensors.items() if k.startswith("state/")}
        if self.model == "sret":
            model: nn.Module = SReT(**self.kwargs)
            missing, unexpected = model.load_state_dict(state, strict=False)
            assert not unexpected
            assert all(m.endswith(("num_batches_tracked", "order")) for m in missing), missing
            model.set_permutations([self[f"permutation/{i}"] for i in range(2)])  # type: ignore[operator]
        else:
            model = timm.create_model(self.metadata["timm_model"], **self.kwargs)
            state = {self.timm_name(k): v for k, v in state.items()}
            missing, unexpected = model.load_state_dict(state, strict=False)
            assert not unexpected
            assert all("index" in k or "mask" in k for k in missing)
        return model.eval()

    def timm_name(self, name: str) -> str:
        if self.model != "swin":
            return name
        name = name.replace("head.", "head.fc.").replace("fc.fc.", "fc.")
        if "downsample" in name:  # which timm has at the start of the next stage
            name = name.replace("layers.0", "layers.1")
        return name

    def config(self) -> QuantConfig:
        flags = self.options["extra"]
        config = fxquant.recipe(
            "vvtq",
            self.options["wbits"],
            self.options["abits"],
            offset="--use-offset" in flags,
            real_offset=True,
            learned_bits="--mixpre" in flags,
        )
        if self.model == "swin":  # whose published code leaves what these two layers read float
            assert config.trunk is not None
            weights = LayerSpec(weight=config.trunk.weight, activation=None)
            config = config.set_module_name("patch_embed", weights).set_module_name_regex(".*reduction", weights)
        return config

    def place(self, name: str) -> tuple[str, int | None]:
        """Return the name of a published quantiser here, and which of its scales it is."""
        name = self.timm_name(name)
        if name == "quant":
            return ("head_fc_input" if self.model == "swin" else "head_input"), None
        if self.model == "sret" and name.endswith(".quant"):  # of a pool
            return name.replace(".quant", ".conv").replace(".", "_") + "_input", None
        if name.startswith("patch_embed.quant") and self.model == "sret":
            return f"patch_embed_conv{name[-1]}_input", None
        for published, own in SITES.items():
            if name.endswith(published):
                return name.replace(published, own).replace(".", "_"), None
        for index, letter in enumerate("qkv"):
            if name.endswith(f"proj_{letter}"):
                return name.replace(f"proj_{letter}", "qkv").replace(".", "_") + "_weight", index
        if name == "head" and self.model == "swin":
            name = "head.fc"
        return name.replace(".", "_") + "_weight", None

    def parameter(self, prepared: fx.GraphModule, name: str) -> tuple[Tensor, Any]:
        """Return the parameter that a published name stands for, and the part of it."""
        owner, _, leaf = name.rpartition(".")
        own = {"alpha": "scale", "beta": "offset", "nbits": "bits"}.get(leaf)
        if own:
            place, index = self.place(owner)
            module = getattr(prepared.observers, place)
            width = slice(None)
            value = getattr(module, own)
            return value, (width, index) if value.dim() == 2 else index
        name = self.timm_name(name)
        for index, letter in enumerate("qkv"):
            if f"attn.proj_{letter}." in name:
                value = prepared.get_parameter(name.replace(f"proj_{letter}", "qkv"))
                rows = len(value) // 3
                return value, slice(index * rows, (index + 1) * rows)
        _, _, leaf = name.rpartition(".")
        if leaf in ("running_mean", "running_var"):
            return prepared.get_buffer(name), None
        return prepared.get_parameter(name), None


def part(value: Tensor, index: Any) -> Tensor:
    return value if index is None else value[index]


def select(published: Tensor, own: Tensor, bits: int) -> Tensor:
    """Return of seven published values, one per width, those that are trained here."""
    return published[bits - 2] if published.numel() == 7 and own.numel() == 1 else published


@pytest.fixture(scope="module", params=RUNS, ids=lambda r: "-".join(r))
def step(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Make the recorded step and keep everything it gives."""
    recorded = Recorded(*request.param)
    prepared = fxquant.prepare_qat(recorded.build(), recorded.config())
    fxquant.calibrate(prepared.eval(), [recorded["init_images"]], progress=False)
    found: dict[str, Any] = {"recorded": recorded, "prepared": prepared}
    found["initial"] = {n: p.detach().clone() for n, p in prepared.named_parameters()}
    with torch.no_grad():  # to the last bit, which decides what the published regulariser leaves out
        for name, published in recorded.under("alpha_init"):
            place, index = recorded.place(name)
            if hasattr(prepared.observers, place):
                module = getattr(prepared.observers, place)
                scale = module.scale
                own = part(scale, (slice(None), index) if scale.dim() == 2 and index is not None else index)
                own.copy_(select(published, own, module.spec.bits).reshape(own.shape))
    with torch.no_grad():
        found["before"] = prepared(recorded["eval_images"])
    prepared.train()
    found["train"] = prepared(recorded["train_images"])
    loss = -(recorded["soft_labels"] * found["train"].log_softmax(1)).sum(1).mean()
    extra = recorded.options["extra"]
    weight = float(extra[extra.index("--reg-lambda") + 1]) if "--reg-lambda" in extra else 0.0
    penalty = weight * variation_regulariser(prepared, published=True) if weight else torch.zeros(())
    torch.autograd.backward(loss + penalty)
    found |= {"loss": loss.detach(), "reg": penalty.detach()}
    found["grad"] = {n: p.grad.clone() for n, p in prepared.named_parameters() if p.grad is not None}
    decayed = {n for n, p in recorded_decayed(prepared)}
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in prepared.named_parameters() if n in decayed]},
        {"params": [p for n, p in prepared.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=recorded.options["lr"], weight_decay=recorded.options["weight_decay"]).step()
    prepared.eval()
    return found


def recorded_decayed(prepared: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in prepared.named_parameters():
        learned = name.startswith("observers.")
        if parameter.dim() > 1 and not learned and name not in ("cls_token", "pos_embed"):
            yield name, parameter


def relative(own: Tensor, published: Tensor) -> float:
    scale = published.double().norm().clamp(min=1e-12)
    return float((own.double() - published.double()).norm() / scale)


def test_scales_start_where_the_published_ones_do(step: dict[str, Any]) -> None:
    recorded, prepared = step["recorded"], step["prepared"]
    seen = set()
    for name, published in recorded.under("alpha_init"):
        if recorded.model == "swin" and name == "patch_embed.quant":  # made, and never called
            continue
        place, index = recorded.place(name)
        own = step["initial"][f"observers.{place}.scale"]
        own = part(
            own, (slice(None), index) if own.dim() == 2 and index is not None else index if own.dim() == 1 else None
        )
        wanted = select(published, own, getattr(prepared.observers, place).spec.bits)
        weight = place.endswith("weight")
        assert relative(own.flatten(), wanted.flatten()) < (1e-5 if weight else 1e-4), name
        seen.add(place)
    quantizers = {n for n, m in prepared.observers.named_children() if isinstance(m, LearnedStepQuantizer)}
    assert seen == quantizers


def test_logits_and_losses_are_the_published_ones(step: dict[str, Any]) -> None:
    recorded = step["recorded"]
    assert relative(step["before"], recorded["logits_before"]) < 1e-5
    assert relative(step["train"].detach(), recorded["train_logits"]) < 1e-5
    assert relative(step["loss"], recorded["loss"]) < 1e-4
    assert relative(step["reg"], recorded["reg"]) < 1e-4


def test_gradients_are_the_published_ones(step: dict[str, Any]) -> None:
    recorded, prepared = step["recorded"], step["prepared"]
    names = {id(p): n for n, p in prepared.named_parameters()}
    compared = 0
    for name, published in recorded.under("grad"):
        if name.endswith("downsample.reduction.nbits"):  # trained there even where bit widths are not
            continue
        value, index = recorded.parameter(prepared, name)
        own = part(step["grad"][names[id(value)]], index)
        owner = name.rpartition(".")[0]
        bits = 8
        if name.endswith(("alpha", "beta")):
            bits = getattr(prepared.observers, recorded.place(owner)[0]).spec.bits
        wanted = select(published, own, bits).reshape(own.shape)
        # Of a sum that all but cancels, rounding is left.
        assert (own - wanted).norm() < 1e-3 * wanted.norm() + 1e-6, (name, own, wanted)
        compared += 1
    assert compared > 70


def test_the_step_leads_to_the_published_state(step: dict[str, Any]) -> None:
    recorded, prepared = step["recorded"], step["prepared"]
    gradients = dict(recorded.under("grad"))
    for name, published in recorded.under("state_after"):
        if name.endswith("downsample.reduction.nbits") or (recorded.model == "swin" and "patch_embed.quant" in name):
            continue
        value, index = recorded.parameter(prepared, name)
        own = part(value.detach(), index)
        bits = 8
        if name.endswith(("alpha", "beta")):
            bits = getattr(prepared.observers, recorded.place(name.rpartition(".")[0])[0]).spec.bits
        gradient = gradients.get(name)
        wanted = select(published, own, bits).reshape(own.shape)
        certain = torch.ones_like(own, dtype=torch.bool)
        if gradient is not None:  # the first step of AdamW has the sign of the gradient, whatever its size
            certain = select(gradient, own, bits).reshape(own.shape).abs() > 1e-6
        assert torch.allclose(own[certain], wanted[certain], rtol=1e-5, atol=1e-5), name
    with torch.no_grad():  # what the sign of a rounding error moved has moved everywhere by now
        for name, published in recorded.under("state_after"):
            if not (recorded.model == "swin" and "patch_embed.quant" in name) and "reduction.nbits" not in name:
                value, index = recorded.parameter(prepared, name)
                bits = 8
                if name.endswith(("alpha", "beta")):
                    bits = getattr(prepared.observers, recorded.place(name.rpartition(".")[0])[0]).spec.bits
                own = part(value, index)
                own.copy_(select(published, own, bits).reshape(own.shape))
        assert relative(prepared(recorded["eval_images"]), recorded["logits_after"]) < 1e-5
