"""`holdfast check`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.app import Answer, Json, verb
from holdfast.errors import InvalidInput, MissingExtra

ONLY_CLAIMED = 6
"""Exit code where Holdfast printed a radius that the file does not prove."""

Origin = Annotated[
    str | None, Parameter(help="demo:NAME or module:package.file:factory[?weights=FILE]")
]


@verb
def check(
    certificate: Annotated[Path, Parameter(help="file written by holdfast certify --out")],
    *,
    model: Origin = None,
    as_json: Json = False,
) -> Answer:
    """Prove the radii of a certificate file again, with the independent checker."""
    try:
        import holdfast_check
    except ImportError as problem:
        raise MissingExtra("python-flint", "rigorous", "holdfast check") from problem
    from holdfast.certificates.files import describes
    from holdfast.sources.models import load_model

    weights = (model or "").partition("?weights=")[2]
    try:
        report = holdfast_check.check(certificate, Path(weights) if weights else None)
    except holdfast_check.Rejected as why:
        got = f"{str(certificate)!r}, rejected: {why}"
        raise InvalidInput("certificate", got, "a file whose radii are proved") from why
    lines = [*report.lines]
    if model is not None and report.proved:
        if not describes(certificate, load_model(model).model):
            got = f"{model!r}, another network than the one in the file"
            raise InvalidInput("model", got, "the model that was certified")
        lines.append(f"model: operations and arrays are those that Holdfast reads in {model}")
    document = {
        "certificate": str(certificate),
        "model": model,
        "rows": report.rows,
        "proved": report.proved,
        "claimed": report.claimed,
        "lines": lines,
    }
    code = ONLY_CLAIMED if report.claimed else 0
    return Answer(document, lambda: "\n".join(lines), as_json, code)
