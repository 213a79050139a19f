"""A linear layer and any operator that only computes a value: saved here, loaded in another process, the same bits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([2, 0, 1])
GRID = F.affine_grid(torch.tensor([[[0.8, 0.1, 0.0], [-0.1, 0.9, 0.1]]]), [1, 1, 5, 5], align_corners=False)
KERNEL = torch.linspace(-1, 1, 4 * 3 * 9).reshape(4, 3, 3, 3)
TURNS = torch.polar(torch.ones(6, 3), torch.arange(18.0).reshape(6, 3) / 7)


def rotary(y: Tensor) -> Tensor:
    pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], 3, 2))
    return torch.view_as_real(pairs * TURNS.conj()).flatten(-2)


def positions(y: Tensor) -> Tensor:
    return torch.where(y > 0, y, torch.arange(6, dtype=y.dtype, device=y.device) * math.pi)


# Name -> the operator, of (B, 4, 6, 6).
OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "grid_sample": lambda y: F.grid_sample(y, GRID.expand(y.shape[0], -1, -1, -1), align_corners=False),
    "affine_grid": lambda y: F.affine_grid(y[:, 0, :2, :3], [y.shape[0], 1, 3, 3], align_corners=True),
    "bilinear": lambda y: F.interpolate(y, (9, 7), mode="bilinear", align_corners=True),
    "bicubic": lambda y: F.interpolate(y, scale_factor=1.5, mode="bicubic", antialias=True),
    "nearest-exact": lambda y: F.interpolate(y, size=(4, 11), mode="nearest-exact"),
    "conv_transpose2d": lambda y: F.conv_transpose2d(y, KERNEL, stride=2, padding=1, output_padding=1),
    "conv1d": lambda y: F.conv1d(y.flatten(2), KERNEL[:, :, 0].transpose(0, 1).contiguous()),
    "pixel_shuffle": lambda y: F.pixel_unshuffle(F.pixel_shuffle(y, 2), 3),
    "channel_shuffle": lambda y: F.channel_shuffle(y, 2),
    "unfold": lambda y: F.fold(F.unfold(y, 2, stride=2), (6, 6), 2, stride=2),
    "tensor unfold": lambda y: y.unfold(2, 3, 1).unfold(3, 3, 2),
    "max_pool indices": lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), kernel_size=(2, 2)),
    "lp_pool2d": lambda y: F.lp_pool2d(y, 2, 2),
    "adaptive_avg_pool3d": lambda y: F.adaptive_avg_pool3d(y, (2, 3, 2)),
    "local_response_norm": lambda y: F.local_response_norm(y, 2),
    "softshrink": lambda y: F.softshrink(F.tanhshrink(F.softsign(F.hardshrink(y)))),
    "cosine_similarity": lambda y: F.cosine_similarity(y, y.roll(1, -1), -1),
    "rfft2": lambda y: torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho") * 2, s=(6, 6), norm="ortho"),
    "fftshift": lambda y: torch.fft.fftshift(torch.fft.fft(y)).real,
    "stft": lambda y: torch.stft(y[:, 0].flatten(1), 8, window=torch.hann_window(8), return_complex=True).abs(),
    "angle": lambda y: torch.view_as_complex(y.reshape(-1, 2)).angle(),
    "rotary": rotary,
    "complex number": lambda y: (y * (0.5 + 2j)).imag,
    "complex parts": lambda y: torch.complex(y, -y).mH.real,
    "einsum": lambda y: torch.einsum("bchw,bdhw->bcd", y, y),
    "tensordot": lambda y: torch.tensordot(y, KERNEL[0, 0], dims=1) if y.shape[-1] == 3 else y.inner(y[0, 0, 0]),
    "cdist": lambda y: torch.cdist(y, y.flip(-1)),
    "norm": lambda y: torch.linalg.norm(y, dim=(-2, -1), ord="fro"),
    "svd": lambda y: torch.linalg.svd(y, full_matrices=False).S,
    "qr": lambda y: torch.linalg.qr(y)[1].abs(),
    "solve": lambda y: torch.linalg.solve(y.mT @ y + torch.eye(6), y),
    "inverse": lambda y: torch.linalg.inv(y @ y.mT + 2 * torch.eye(6)),
    "matrix_exp": lambda y: torch.matrix_exp(y / 10),
    "cross": lambda y: torch.linalg.cross(y[..., :3], y[..., 3:]),
    "special": lambda y: torch.special.expit(torch.special.i0e(y)) + torch.special.xlogy(y.abs(), y.abs() + 1),
    "index": lambda y: y[:, INDEX, :, INDEX],
    "index_select": lambda y: y.index_select(1, INDEX),
    "index_add": lambda y: y.index_add(1, INDEX, y[:, :3], alpha=2),
    "index_put": lambda y: y.transpose(0, 1).index_put((INDEX,), torch.zeros(())).transpose(0, 1),
    "gather": lambda y: torch.gather(y, 2, y.argsort(2)),
    "take_along_dim": lambda y: torch.take_along_dim(y, y.argmax(1, keepdim=True), 1),
    "scatter": lambda y: torch.zeros_like(y).scatter(3, y.argmax(3, keepdim=True), 1.0),
    "scatter_reduce": lambda y: y.scatter_reduce(1, y.argsort(1), y, "amax"),
    "one_hot": lambda y: F.one_hot(y.argmax(-1), 6).float(),
    "embedding": lambda y: F.embedding(y.argmin(-1), KERNEL.reshape(-1, 4)),
    "cumulative": lambda y: torch.cumsum(y, 1) + y.cumprod(2) + torch.logcumsumexp(y, 3),
    "cummax": lambda y: torch.cummax(y, -1).values,
    "max by name": lambda y: torch.max(y, -1).indices + torch.min(y, dim=1).indices.sum(),
    "max method": lambda y: y.max(2).values - y.min(2)[0],
    "named tuple whole": lambda y: torch.sort(y, dim=-1, descending=True),
    "sort": lambda y: y.sort(dim=1, stable=True).values,
    "topk": lambda y: torch.topk(y, 3, dim=-1).values,
    "kthvalue": lambda y: y.kthvalue(2, dim=-1).values,
    "median": lambda y: y.median(-1).values + y.quantile(0.3, dim=-1),
    "bucketize": lambda y: torch.bucketize(y, torch.linspace(-1, 1, 5)),
    "searchsorted": lambda y: torch.searchsorted(y.sort().values, y),
    "masked_select": lambda y: y.masked_select(y > 10),
    "nonzero": lambda y: (y > 10).nonzero(),
    "unique": lambda y: torch.unique(y > 10),
    "where": positions,
    "logical": lambda y: torch.logical_xor(y > 0, y.isfinite() & (y < 1)) | torch.isin(y.round(), INDEX),
    "bits": lambda y: (y.argmax(-1) << 2) ^ (y.argmin(-1) >> 1),
    "lerp": lambda y: torch.lerp(y, y.mean(), 0.3) + torch.addcdiv(y, y, y.abs() + 1) + y.nan_to_num().copysign(y),
    "moments": lambda y: torch.std_mean(y, dim=(2, 3)),
    "containers": lambda y: {"a": [y.aminmax(), y[..., None, 1:]], "b": (y.to(torch.float64), (y.size(1), None))},
    "triangle": lambda y: torch.tril(y, -1) + y.triu(1) + torch.diag_embed(torch.diagonal(y, dim1=2, dim2=3)),
    "rot90": lambda y: torch.rot90(y, 1, (2, 3)).swapdims(2, 3) + y.fliplr(),
    "stacks": lambda y: torch.hstack([torch.dstack(y.tensor_split(3, 2)), torch.hstack(y.split([1, 3], 1)).mT]),
    "meshgrid": lambda y: y + torch.meshgrid(torch.arange(6), torch.arange(6), indexing="xy")[0],
    "aten": lambda y: torch.ops.aten.hardswish(torch.ops.aten.logit.default(y.sigmoid(), 1e-3)),
    "math": lambda y: y * math.sqrt(y.shape[-1]) + math.gcd(y.size(2), 4),
}

# The size of what these give depends on values, so that their graphs are traced without an example.
DYNAMIC = ("masked_select", "nonzero", "unique")

COMPARE = """
import json, sys, torch, fxquant
from pathlib import Path
from torch.utils import _pytree as pytree

def bits(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.contiguous().reshape(-1).view(torch.uint8)

folder, found = Path(sys.argv[1]), {}
inputs, outputs = torch.load(folder / "outputs.pt", weights_only=False)
for name, expected in outputs.items():
    with torch.no_grad():
        output = fxquant.load(folder / f"{name}.safetensors")(inputs)
    leaves, form = pytree.tree_flatten(output)
    others, wanted = pytree.tree_flatten(expected)
    same = form == wanted and all(
        torch.equal(bits(a), bits(b)) and (a.shape, a.dtype) == (b.shape, b.dtype) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(leaves, others)
    )
    found[name] = "same" if same else f"expected {expected}, found {output}"
print(json.dumps(found))
"""


class Around(nn.Module):
    """A linear layer, and an operator on what it gives."""

    def __init__(self, operator: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.operator = operator

    def forward(self, x: Tensor) -> Any:
        """Return the operator of the layer's output, for ``(B, 4, 6, 6)``."""
        return self.operator(self.layer(x))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Save a graph for each operator, and return what another process finds out of each."""
    folder: Path = tmp_path_factory.mktemp("operators")
    outputs: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, operator in OPERATORS.items():
        torch.manual_seed(0)
        model = Around(operator).eval()
        try:
            gm = fxquant.trace(model, *(() if name in DYNAMIC else (X,)))
            fxquant.save(gm, folder / f"{name}.safetensors")
        except fxquant.FxquantError as error:
            problems[name] = str(error)
            continue
        with torch.no_grad():
            outputs[name] = gm(X)
    torch.save((X, outputs), folder / "outputs.pt")
    done = subprocess.run([sys.executable, "-c", COMPARE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return problems | json.loads(done.stdout)


@pytest.mark.parametrize("name", OPERATORS)
def test_loads_in_another_process_to_the_bit(name: str, compared: dict[str, str]) -> None:
    assert compared[name] == "same"
