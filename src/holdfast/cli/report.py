"""`holdfast report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.app import Answer, Json, check_writable, verb
from holdfast.errors import InvalidInput


@verb
def report(
    audit_json: Annotated[Path, Parameter(help="an audit.json")],
    *,
    out: Annotated[Path | None, Parameter(help="page to write; beside audit.json by default")] = (
        None
    ),
    as_json: Json = False,
) -> Answer:
    """Draw the page of an audit again from its audit.json."""
    from holdfast.files import read_json
    from holdfast.report.page import write_page

    target = out or audit_json.parent / "report.html"
    check_writable(target)
    document = read_json(audit_json, "audit_json")
    try:
        write_page(document, target)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        got = f"{str(audit_json)!r} ({type(problem).__name__}: {problem})"
        raise InvalidInput("audit_json", got, "a file that `holdfast audit` wrote") from problem
    return Answer({"page": str(target)}, lambda: f"page: {target}", as_json)
