"""A figure of matplotlib that a notebook shows at the end of a cell; the only module here that imports matplotlib."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_DPI = 72  # small enough to be kept in a notebook


class ShownFigure(Figure):
    """A `Figure` that needs no ``%matplotlib inline``: without pyplot, notebooks print the name of a plain one."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", dpi=_DPI)
        return picture.getvalue()
