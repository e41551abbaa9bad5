"""An answer as HTML for notebooks: its facts, its chart or its first lines, and what it claims.

Nothing is loaded and nothing runs. The colours are those of the audit page, light or dark as the
notebook is; every word out of files or models is escaped.
"""

import hashlib
import html as markup
import itertools
import re
from typing import Any

from holdfast.errors import MissingExtra, one_line
from holdfast.report.formats import DASH, amount
from holdfast.rows import RowResult
from holdfast.views.charts import drawing, palettes
from holdfast.views.summaries import summary
from holdfast.views.tables import columns
from holdfast.views.text import shortened

DARK = ("[data-jp-theme-light=false]", ".vscode-dark", "html[theme=dark]")
LIGHT = ("[data-jp-theme-light=true]", ".vscode-light", "html[theme=light]")
"""How JupyterLab, Visual Studio Code and Colab say which of their themes is on."""

STYLE = (
    ".holdfast{background:var(--card);color:var(--text);border:1px solid var(--line);"
    "border-radius:8px;padding:14px 18px;max-width:640px;font:14px/1.5 system-ui,sans-serif;"
    "overflow-wrap:anywhere;font-variant-numeric:tabular-nums;box-sizing:border-box}"
    ".holdfast strong{color:var(--ink);font-size:15px}"
    ".holdfast table{border-collapse:collapse;margin:8px 0;border:0;color:inherit}"
    ".holdfast tr,.holdfast th,.holdfast td{background:none;border:0;text-align:left;"
    "vertical-align:top;font-size:13px}"
    ".holdfast th,.holdfast td{padding:2px 16px 2px 0}"
    ".holdfast th{color:var(--muted);font-weight:400;white-space:nowrap}"
    ".holdfast .lines{display:block;overflow-x:auto}"
    ".holdfast .lines tr{border-top:1px solid var(--grid)}"
    ".holdfast svg{display:block;max-width:100%;height:auto;margin:10px 0}"
    ".holdfast p{margin:8px 0 0;color:var(--muted);font-size:12px;max-width:none}"
)


def html(result: object) -> str:
    """Return an answer as a piece of HTML.

    Args:
        result: What a verb returned.
    """
    said = summary(result)
    facts = "".join(
        f"<tr><th>{_words(shortened(one_line(name), 40))}</th><td>{_words(value)}</td></tr>"
        for name, value in said.facts
    )
    table = f"<table>{facts}</table>" if facts else ""
    note = f"<p>{_words(said.note)}</p>" if said.note else ""
    return (
        f'<div class="holdfast"><style>{_colours()}{STYLE}</style>'
        f"<strong>{_words(said.title)}</strong>"
        f"{table}{_chart(result) or _lines(result)}{note}</div>"
    )


def _colours() -> str:
    """Return the colours, by the notebook's theme where it says which is on, or the system's."""
    light, dark = (";".join(f"--{k}:{v}" for k, v in each.items()) for each in palettes())
    themes = ((LIGHT, light), (DARK, dark))
    chosen = (
        f"{','.join(f'{theme} .holdfast' for theme in names)}{{{colours}}}"
        for names, colours in themes
    )
    system = f"@media (prefers-color-scheme:dark){{.holdfast{{{dark}}}}}"
    return f".holdfast{{{light}}}{system}{''.join(chosen)}"


def _chart(result: object) -> str:
    """Return the chart, with names of its own for its parts; empty where there is none to draw."""
    if isinstance(result, RowResult) and len(result) == 1:
        return ""  # the facts say all of it
    try:
        found = drawing(result)
    except MissingExtra:
        return ""
    mark = hashlib.sha256(found.encode()).hexdigest()[:8]
    return re.sub(r'(id="|url\(#)(\w+)', rf"\1h{mark}-\2", found)


def _lines(result: object) -> str:
    """Return the first lines of the table of an answer that has several."""
    table, most = columns(result), 8
    lines = list(itertools.zip_longest(*table.values()))
    if len(lines) < 2:
        return ""
    head = "".join(f"<th>{_words(name.replace('_', ' '))}</th>" for name in table)
    body = "".join(
        "<tr>" + "".join(f"<td>{_words(_cell(cell))}</td>" for cell in line) + "</tr>"
        for line in lines[:most]
    )
    more = len(lines) - most
    rest = f"<p>and {more} more: to_pandas() has all of them</p>" if more > 0 else ""
    return f'<table class="lines"><tr>{head}</tr>{body}</table>{rest}'


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return DASH if value is None else str(value)
    return amount(value)


def _words(text: str) -> str:
    """Return text that is only text, on one line."""
    return markup.escape(one_line(text))
