"""The notebooks of `examples/`: their cells, a fresh run of one, and what is kept of its outputs."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.documents import ROOT

FOLDER = ROOT / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Characters of one form of an output. A page of fxquant.inspect has more, and its line of text is kept.
LARGEST_PART = 50_000
_BAR = "application/vnd.jupyter.widget-view+json"  # the form of what is drawn anew while a cell runs


def execute(file: Path) -> Any:
    """
    Return a notebook with the outputs of a fresh run, in its own folder, as Jupyter starts it.

    Raises `nbclient.exceptions.CellExecutionError`, which shows the cell, where one fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    place = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True, resources=place
    )
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    return notebook


def write(notebook: Any, file: Path) -> None:
    """Write an executed notebook without what is of the machine that ran it, and without outputs that are too large."""
    import nbformat

    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
            for output in cell.outputs:
                if "data" in output:
                    output.metadata = nbformat.from_dict({})
                    if "image/png" in output.data:
                        output.data["image/png"] = _smaller(output.data["image/png"])
                    output.data = {form: part for form, part in output.data.items() if len(part) <= LARGEST_PART}
    nbformat.validate(notebook)
    nbformat.write(notebook, file)


def _is_passing(output: Any) -> bool:
    """Whether an output is a bar, or what libraries say of the machine on the standard error."""
    return output.get("name") == "stderr" or _BAR in output.get("data", {})


def _smaller(picture: str) -> str:
    """Return a PNG picture of at most 576 pixels with a palette of 64 colours, in base64 as it came."""
    packed = io.BytesIO()
    colours = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    colours.thumbnail((576, 576))
    colours.quantize(64, dither=Image.Dither.NONE).save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()
