"""README.md is one screen, its example and that of docs/index.md run, and the graph of docs/architecture.md is `convert`'s."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import fxquant
from fxquant.cli.main import COMMANDS
from tests.support import documents

README = documents.page("README.md")


class Mlp(nn.Module):
    """The second half of a ViT block: norm, two layers with GELU between them, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.fc2(self.act(self.fc1(self.norm(x))))
        return y


def test_it_is_one_screen() -> None:
    assert len(README.splitlines()) <= 70


def test_it_has_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(documents.command_lines("README.md"))


def test_it_has_a_picture_that_exists() -> None:
    (picture,) = re.findall(r"^!\[.+\]\((\S+)\)$", README, re.MULTILINE)
    assert (documents.ROOT / picture).is_file()


def test_the_graph_is_what_convert_gives() -> None:
    torch.manual_seed(0)
    model, x = Mlp().eval(), torch.randn(2, 16, 64)
    before = documents.listing(fxquant.trace(model, x))
    after = documents.listing(fxquant.quantize(model, [x], recipe="minmax"))
    expected = f"# before: fxquant.trace(mlp)\n{before}\n\n# after: fxquant.convert(prepared)\n{after}"
    assert documents.between("docs/architecture.md", "graph") == expected


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_example_runs(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = documents.blocks(page, "python")
    create = timm.create_model

    def small(name: str, pretrained: bool) -> nn.Module:
        assert pretrained
        model: nn.Module = create(name, depth=1, embed_dim=32, num_heads=2)
        return model

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.chdir(tmp_path)
    found = documents.run(page)
    assert "on int8" in capsys.readouterr().out
    images = found["batches"][0]
    assert torch.equal(fxquant.load("deit_int8.safetensors")(images), found["quantized"](images))
    assert len(block.text.splitlines()) <= 14


def test_every_command_is_named() -> None:
    text = " ".join(documents.names("docs/command-line.md")) + documents.page("docs/command-line.md")
    for command in COMMANDS:
        assert re.search(rf"(fxquant |`){command}\b", text), command
