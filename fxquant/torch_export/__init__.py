"""Converted graphs as programs of `torch.export`: for PT2E's backends, and compiled ahead of time."""

from fxquant.torch_export.aoti_package import export_aoti
from fxquant.torch_export.pt2e_program import export_pt2e

__all__ = ["export_aoti", "export_pt2e"]
