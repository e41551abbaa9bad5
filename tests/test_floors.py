"""Imports run only downward, every module has its floor, and files stay one idea."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "holdfast"

FLOORS = {
    "errors": 0,
    "arguments": 0,
    "gradients": 0,
    "files": 0,
    "documents": 0,
    "types": 0,
    "moves": 0,
    "rounding": 0,
    "corners": 0,
    "threads": 0,
    "batches": 0,
    "versions": 0,
    "wrappers": 0,
    "results": 0,
    "rows": 0,
    "ops": 1,
    "graph": 2,
    "norms": 3,
    "bounds": 4,
    "smoothing": 5,
    "sdp": 5,
    "brackets": 6,
    "certificates": 7,
    "attacks": 8,
    "knowledge_continuity": 8,
    "smoothness": 8,
    "language": 9,
    "train": 9,
    "sources": 9,
    "runs": 9,
    "report": 10,
    "audits": 11,
    "terminal": 12,
    "progress": 12,
    "views": 12,
    "cli": 13,
    "__main__": 13,
}
MODULES = sorted(SOURCE.rglob("*.py"))


def room(module: str) -> str:
    """Return the part of the house that a dotted module name belongs to."""
    return module.split(".")[1] if "." in module else "holdfast"


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Return what a file imports, at any depth of its code."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports, at any depth of its code."""
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative imports hide the floor"
            names.add(node.module or "")
    return {room(name) for name in names if name.split(".")[0] == "holdfast"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_run_downward(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the front door names everybody
    for other in imported(path) - {own, "holdfast"}:
        assert FLOORS[other] <= FLOORS[own], f"{own} must not import {other}"


def test_same_floor_rooms_know_each_other_one_way_only() -> None:
    edges = set()
    for path in MODULES:
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        edges |= {(own, other) for other in imported(path) - {own, "holdfast"}}
    assert not {(a, b) for a, b in edges if (b, a) in edges}


def modules_imported(path: Path, every: set[str]) -> set[str]:
    """Return the modules of the library that a file imports, inside of functions too."""
    found = set()
    for node in imports(path):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & every or {str(node.module)}
        else:
            found |= {alias.name for alias in node.names}
    return found & every


def test_no_two_files_import_each_other() -> None:
    names = {
        ".".join(["holdfast", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    edges = {name: modules_imported(path, {*names}) - {name} for name, path in names.items()}
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError, which names the circle


def test_the_front_door_is_only_used_by_the_top_floors() -> None:
    users = {path.relative_to(SOURCE).parts[0] for path in MODULES if "holdfast" in imported(path)}
    assert users <= {"cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


def test_every_public_name_exists() -> None:
    import holdfast

    assert len(holdfast.__all__) <= 40
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = holdfast.nonsense
