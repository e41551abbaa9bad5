"""`holdfast ls`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from holdfast.cli.app import Answer, Json, verb
from holdfast.errors import InvalidInput


@verb
def ls(
    folder: Annotated[Path, Parameter(help="where audits lie, at any depth")] = Path("runs"),
    *,
    as_json: Json = False,
) -> Answer:
    """List the audits below a folder: when, on what, and what was found."""
    from holdfast.terminal import runs_table

    if not folder.is_dir():
        raise InvalidInput("folder", repr(str(folder)), "a folder")
    known = [_run(path) for path in sorted(folder.rglob("audit.json"))]
    runs = [run for run in known if run is not None]
    return Answer({"runs": runs}, lambda: runs_table(runs, folder), as_json)


def _run(path: Path) -> dict[str, Any] | None:
    """Return what is listed of an audit; None for another file of that name."""
    from holdfast.files import read_json
    from holdfast.report.reading import check

    try:
        audit = read_json(path, "folder")
        check(audit)
        models = [_model(subject) for subject in audit["subjects"]]
        parts = {"created": audit["created"], "data": audit["data"]["name"], "models": models}
    except (InvalidInput, LookupError, TypeError, AttributeError):
        return None
    asked = {key: audit[key] for key in ("norm", "epsilon", "stopped") if audit.get(key)}
    return {"run": str(path.parent), **parts, **asked}


def _model(subject: dict[str, Any]) -> dict[str, Any]:
    """Return what is listed of one model: what is not known is not there."""
    certificates = subject.get("certificates") or {}
    found = {
        "name": subject["name"],
        "accuracy": subject.get("accuracy"),
        "median_radius": certificates.get("median_radius"),
        "verified_accuracy": certificates.get("verified_accuracy"),
    }
    return {key: value for key, value in found.items() if value is not None}
