"""The listings of two passes differ in nodes that were added, removed and changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fxquant import InputError
from fxquant.inspection.pass_differences import PassDifference, pass_differences

BEFORE = """class GraphModule(torch.nn.Module):
    def forward(self, x):
        # No stacktrace found for following nodes
        a = torch.exp(x);  x = None
        b = a.reshape(2, 3);  a = None
        c = b + 1
        return c
"""
AFTER = """class GraphModule(torch.nn.Module):
    def forward(self, x):
        a: "f32[2, 3]" = torch.exp(x)
        c: "f32[2, 3]" = a + 1;  a = None
        d: "f32[2, 3]" = c * x;  c = x = None
        return d
"""


def test_nodes_are_compared_by_name_and_what_is_known_of_them_is_no_change(tmp_path: Path) -> None:
    for index, (name, text) in enumerate((("first", BEFORE), ("second", AFTER), ("third", AFTER))):
        (tmp_path / f"{9 + index:02d}_{name}.txt").write_text(text)
    assert pass_differences(tmp_path) == [
        PassDifference(
            "second",
            added=('d: "f32[2, 3]" = c * x',),
            removed=("b = a.reshape(2, 3)",),
            changed=(("c = b + 1", 'c: "f32[2, 3]" = a + 1'),),
        ),
        PassDifference("third", (), (), ()),
    ]


def test_a_folder_without_listings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the listings that FXQUANT_TRACE=.* writes .* found none there"):
        pass_differences(tmp_path)
