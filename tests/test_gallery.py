"""The notebooks of the gallery run, and show what they did when they were run last."""

import re

import pytest
from tests.test_docs import ROOT

nbformat = pytest.importorskip("nbformat")

GALLERY = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))
SHORT = [path for path in GALLERY if path.stem in ("step", "text")]
LONG = [path for path in GALLERY if path not in SHORT]


@pytest.mark.parametrize(
    "path",
    [*SHORT, *(pytest.param(path, marks=pytest.mark.slow) for path in LONG)],
    ids=lambda path: path.stem,
)
def test_a_notebook_shows_what_it_does(path):
    from scripts.gallery import run

    kept = [words(cell) for cell in nbformat.read(path, as_version=4).cells]
    assert [words(cell) for cell in run(path).cells] == kept, "run make pictures"
    assert any(kept)


@pytest.mark.slow
@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel_and_shows_cards(path, tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("holdfast" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_its_links_lead_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 120_000
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        assert (path.parent / target).exists(), target


def words(cell) -> list[str]:
    """Return the kind of each output of a cell, and its words; numbers differ between machines."""
    told = []
    for output in cell.get("outputs", ()):
        text = output.get("text") or output.data.get("text/plain", "")
        told += [*output.get("data", ["text"]), *re.sub(r"\d+([.,]\d+)*", "#", text).split()]
    return told
