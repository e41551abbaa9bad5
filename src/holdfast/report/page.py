"""The audit page: one offline HTML file that is made from the audit's numbers alone."""

import base64
import functools
import gzip
import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from holdfast.errors import MissingExtra
from holdfast.files import StrPath, write_whole
from holdfast.report import formats, rows, verdict
from holdfast.report.brittle import (
    brittle_sentence,
    class_rows,
    kinds,
    most_brittle,
    shown_layers,
    typical,
)
from holdfast.report.claims import claims
from holdfast.report.figures import figures, gain_rows, gains_of_one
from holdfast.report.frontier import maps, opened
from holdfast.report.images import data_uri
from holdfast.report.reading import Record, asked, check, finished, inputs, subjects, visible_words
from holdfast.report.training import descent_sentence, run_sentence


def render(audit: Record) -> str:
    """Return the whole page of one audit.

    Args:
        audit: What `audit.json` holds.

    Returns:
        An HTML document that loads nothing: style, scripts, figures and pictures are inside.

    Raises:
        InvalidInput: This is not an audit that the page can show.
        MissingExtra: A library of the extra `report` is not installed.
    """
    check(audit)
    audit = visible_words(audit)
    specs = figures(audit)
    scripts = [_in_script(_asset("page.js"))]
    context = {
        "audit": audit,
        "subjects": subjects(audit),
        "inputs": inputs(audit),
        "class_name": functools.partial(rows.class_name, audit),
        "values_of": functools.partial(rows.values_of, audit),
        "differences": functools.partial(rows.differences, audit),
        "claims": claims(audit),
        "half_way": verdict.half_way(audit),
        "verdicts": verdict.verdicts(audit),
        "comparison": verdict.comparison(audit),
        "steps": verdict.next_steps(audit),
        "asked": functools.partial(asked, audit),
        "finished": functools.partial(finished, audit),
        "drawn": {name: spec["description"] for name, spec in specs.items()},
        "picture": functools.partial(_picture, audit["data"]),
        "difference": functools.partial(_difference, audit["data"]),
        "specs": json_in_script(specs),
        "theme": json_in_script(json.loads(_asset("theme.json"))),
        "style": _asset("page.css"),
        "scripts": scripts,
        "library": _packed(_libraries()),
        "policy": _policy([*scripts, _libraries()]),
    }
    return _environment().get_template("page.html.j2").render(context)


def write_page(audit: Record, path: StrPath) -> Path:
    """Write the page of one audit so that the file is either whole or untouched.

    Args:
        audit: What `audit.json` holds.
        path: The HTML file; its folder must exist.

    Returns:
        The path written.

    Raises:
        InvalidInput: The audit cannot be shown, or the path cannot be written.
        MissingExtra: A library of the extra `report` is not installed.
    """
    target = Path(path)
    write_whole(target, render(audit))
    return target


def json_in_script(value: object) -> str:
    """Return JSON that cannot end the script element it stands in.

    >>> "</script>" in json_in_script({"name": "</script>"})
    False
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _picture(data: Record, pixels: list[float] | None) -> str | None:
    return data_uri(pixels, data.get("image"), data.get("range") or (0.0, 1.0))


def _difference(data: Record, change: list[float] | None) -> str | None:
    """Return a change of pixels as a picture: grey where there is none."""
    most = max(map(abs, change or ()), default=0.0) or 1.0
    return data_uri(change, data.get("image"), (-most, most))


def _asset(name: str) -> str:
    folder = resources.files("holdfast.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _in_script(code: str) -> str:
    """Return code that HTML reads as one script, whatever its strings hold."""
    return re.sub(r"<(/script|!--)", r"<\\\1", code, flags=re.IGNORECASE)


@functools.cache
def _packed(code: str) -> str:
    """Return a script as packed text: a page with the drawing library as it is would be 0.9 MB."""
    return base64.b64encode(gzip.compress(code.encode(), mtime=0)).decode("ascii")


@functools.cache
def _libraries() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script without outside needs.

    Raises:
        MissingExtra: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "report", "the audit page") from error
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return f"(() => {{\n{bundle}\n}})();"


def _policy(scripts: list[str]) -> str:
    """Return the policy that lets exactly these scripts run, and nothing be loaded."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _environment() -> Any:
    """Return the templates, with escaping on and numbers as filters.

    Raises:
        MissingExtra: Jinja is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "report", "the audit page") from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    written = (formats.number, formats.at_least, formats.at_most, formats.percent, formats.count)
    written += (formats.given, formats.seconds, formats.listing)
    environment.filters |= {function.__name__: function for function in written}
    environment.filters |= {"gain_rows": gain_rows, "ones": gains_of_one, "brittle": most_brittle}
    environment.filters |= {"brittle_sentence": brittle_sentence, "typical": typical}
    environment.filters |= {"shown_layers": shown_layers, "class_rows": class_rows, "kinds": kinds}
    environment.filters |= {"maps": maps, "opened": opened, "promise": verdict.promise}
    environment.filters |= {"descent_sentence": descent_sentence, "run_sentence": run_sentence}
    environment.filters |= {"judgement": verdict.judgement}
    environment.filters |= {"share_interval": verdict.share_interval}
    environment.globals["rate"] = verdict.rate
    return environment
