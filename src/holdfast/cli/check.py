"""`holdfast check`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.app import Answer, Json, verb
from holdfast.errors import InvalidInput

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
    """Prove the radii of a certificate file again; exit code 6: some row has none proved."""
    from holdfast.certificates.files import check_file, describes
    from holdfast.sources.models import load_model

    loaded = None if model is None else load_model(model)
    report = check_file(certificate, loaded and loaded.weights, "certificate")
    lines = [*report.lines]
    if loaded is not None:
        if not describes(certificate, loaded.model):
            got = f"{model!r}, another network than the one in the file"
            raise InvalidInput("model", got, "the model that was certified")
        read = report.proved and "a smoothed model" not in lines[0]
        what = "operations, arrays and weights are" if read else "weights alone are"
        lines.append(f"model: {what} those that Holdfast reads in {model}")
    document = {
        "certificate": str(certificate),
        "model": model,
        "rows": report.rows,
        "proved": report.proved,
        "claimed": report.claimed,
        "lines": lines,
    }
    return Answer(document, lambda: "\n".join(lines), as_json, report.code)
