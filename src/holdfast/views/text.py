"""The `repr` of an answer: at most ten lines of 80 columns, whatever the names in it are."""

import textwrap

from rich.cells import cell_len, set_cell_size

from holdfast.errors import one_line
from holdfast.views.summaries import summary


def text(result: object) -> str:
    """Return an answer as text: its title, its facts, and the beginning of its note.

    Args:
        result: What a verb returned.
    """
    said = summary(result)
    facts = [(one_line(name), one_line(value)) for name, value in said.facts[:7]]
    column = min(max((cell_len(name) for name, _ in facts), default=0), 30)
    lines = [
        f"  {set_cell_size(shortened(name, column), column)}  {value}" for name, value in facts
    ]
    # All facts first; what is left of ten lines, but no more than three, is for the note.
    most = min(9 - len(facts), 3)
    note = textwrap.wrap(one_line(said.note), 76, break_on_hyphens=False)
    if len(note) > most:
        note = [*note[: most - 1], f"{note[most - 1]} …"]
    lines = [one_line(said.title), *lines, *(f"  {line}" for line in note)]
    return "\n".join(shortened(line, 80) for line in lines)


def shortened(line: str, width: int) -> str:
    """Return a line of at most so many columns, cut off with three dots.

    >>> shortened("layers.0.attention", 10), shortened("fc", 10)
    ('layers.0.…', 'fc')
    """
    if cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1).rstrip() + "…"
