"""Guards by torch's own operators mark the images that fxquant's operator marks."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from fxquant.ops import check_values
from fxquant.torch_export.plain_guards import plain_guards


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 5, 5)])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_marks_the_same_images(shape: tuple[int, ...], batched: bool, dtype: torch.dtype) -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(check_values, (graph.placeholder("x"), None, None, "x", False, batched)))
    gm = fx.GraphModule({}, graph)
    x = torch.randn(shape).to(dtype)
    x[1], x[3] = float("nan"), float("-inf")
    expected = gm(x)
    plain_guards(gm)
    assert not [n for n in gm.graph.nodes if n.target is check_values]
    assert torch.equal(gm(x), expected) or bool(torch.isnan(expected).any())
    assert torch.equal(torch.isnan(gm(x)), torch.isnan(expected))
    assert gm(x).dtype is torch.float32
    assert gm(x[:1]).isfinite().all()
