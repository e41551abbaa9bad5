"""Run the notebooks of the gallery in this process, and keep in them what a reader should see.

A forge draws a notebook from the file alone, without styles or scripts. So an answer is kept as its
text and, where it has a chart, as a picture; Jupyter shows the card with both.

Run with `make pictures`, or `python -m scripts.gallery FOLDER`.
"""

import ast
import base64
import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_output
from scripts.pictures import picture


def run(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of its cells, which are run one after the other.

    Args:
        path: The notebook; the file stays as it is.
    """
    notebook = nbformat.read(path, as_version=4)
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    for count, cell in enumerate(cells, 1):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            value = _run_cell(cell.source, f"{path.name}[{count}]", names)
        cell.execution_count = count
        cell.outputs = [new_output("stream", text=said.getvalue())] if said.getvalue() else []
        cell.outputs += _shown(value, count)
    return notebook


def _run_cell(source: str, name: str, names: dict[str, Any]) -> object:
    """Run a cell and return the value of its last line, or None where that is no expression."""
    body = ast.parse(source, name).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), names)  # our own notebooks
    return None if last is None else eval(compile(last, name, "eval"), names)


def _shown(value: object, count: int) -> list[nbformat.NotebookNode]:
    """Return what is kept of the last value of a cell: its picture first, then its text."""
    if value is None:
        return []
    if hasattr(value, "_repr_png_"):  # its text is an address in memory
        image = base64.b64encode(value._repr_png_()).decode("ascii")
        return [new_output("display_data", data={"image/png": image})]
    text = new_output("execute_result", data={"text/plain": repr(value)}, execution_count=count)
    if not hasattr(value, "plot"):
        return [text]
    value._repr_html_()  # the card that Jupyter shows must not fail either
    drawn = picture(value)
    return [new_output("display_data", data={"image/svg+xml": drawn}), text] if drawn else [text]


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/gallery").glob("*.ipynb")):
        nbformat.write(run(path), path)
