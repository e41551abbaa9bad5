"""`holdfast report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.app import Answer, Json, check_writable, verb
from holdfast.errors import InvalidInput


@verb
def report(
    *runs: Annotated[Path, Parameter(help="folders of audits, or an audit.json each")],
    out: Annotated[Path | None, Parameter(help="page to write; beside audit.json by default")] = (
        None
    ),
    as_json: Json = False,
) -> Answer:
    """Draw the page of an audit again, or one page of several audits on the same data."""
    from holdfast.files import read_json
    from holdfast.report.merging import merged
    from holdfast.report.page import write_page

    if not runs or (len(runs) > 1 and out is None):
        got = f"{len(runs)} runs" if runs else "no run"
        wanted = "--out PAGE as well" if runs else "the folder of an audit, or its audit.json"
        raise InvalidInput("runs", got, wanted)
    paths = [run / "audit.json" if run.is_dir() else run for run in runs]
    target = out or paths[0].parent / "report.html"
    check_writable(target)
    documents = [read_json(path, "runs") for path in paths]
    try:
        write_page(merged(documents), target)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        got = f"{', '.join(map(repr, map(str, paths)))} ({type(problem).__name__}: {problem})"
        raise InvalidInput("runs", got, "files that `holdfast audit` wrote") from problem
    return Answer({"page": str(target)}, lambda: f"page: {target}", as_json)
