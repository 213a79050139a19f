"""Pages and fragments of HTML, from the templates and the built scripts in `page/`."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent / "page"


def render(title: str, data: Mapping[str, Any]) -> str:
    """Return the page for the `data` of `fxquant.inspection.page_data`; it needs no other file, and no network."""
    packed = gzip.compress(json.dumps(data, allow_nan=False, separators=(",", ":")).encode(), mtime=0)
    return fill(
        "page.html.jinja",
        title=title,
        data=base64.b64encode(packed).decode(),
        script=_built("page.js"),
        style=_built("page.css"),
    )


def render_frame(title: str, page: str) -> str:
    """Return a frame that shows a `page` within that of a notebook, whose styles and scripts it shares nothing with."""
    return fill("frame.html.jinja", title=title, page=page)


def fill(template: str, **values: Any) -> str:
    """Return a template of the folder with its `values`; texts are escaped, so that none of them becomes markup."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


@cache
def _built(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
