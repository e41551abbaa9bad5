"""What an audit holds: which parts were run, which were refused, and by which subject."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import InvalidInput, visible

Record = Mapping[str, Any]
"""What `audit.json` holds: all of it, or one part."""

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")


@dataclass(frozen=True)
class Finding:
    """One part of the audit of one subject.

    Attributes:
        index: Place of the subject in the audit; fixes its colour and its shape.
        subject: The subject's record.
        part: The record of the part, for example `subject["lipschitz"]`.
    """

    index: int
    subject: Record
    part: Record

    @property
    def name(self) -> str:
        """The subject's name."""
        return str(self.subject["name"])

    @property
    def series(self) -> str:
        """The subject's key inside figures, where names may repeat."""
        return f"s{self.index}"

    @property
    def shape(self) -> str:
        """The subject's marker, the same in every figure and legend."""
        return SHAPES[self.index % len(SHAPES)]

    @property
    def refused(self) -> str | None:
        """Why the part was refused, or None when it was finished."""
        return self.part.get("refused")


def inputs(audit: Record) -> str:
    """Return what rows are called: test inputs only where the user vouched for it."""
    return "test inputs" if audit["data"].get("held_out") else "inputs"


def visible_words(value: Any) -> Any:
    """Return a document whose words only show: marks of writing direction could reorder a page."""
    if isinstance(value, Mapping):
        return {visible_words(key): visible_words(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [visible_words(entry) for entry in value]
    return visible(value) if isinstance(value, str) else value


def asked(audit: Record, part: str) -> list[Finding]:
    """Return the findings of one part, refused ones included, in the order of the subjects."""
    return [
        Finding(index, subject, subject[part])
        for index, subject in enumerate(audit["subjects"])
        if subject.get(part)
    ]


def finished(audit: Record, part: str) -> list[Finding]:
    """Return the findings of one part that came to an end."""
    return [finding for finding in asked(audit, part) if finding.refused is None]


def subjects(audit: Record) -> list[Finding]:
    """Return every subject as a finding about itself."""
    return [Finding(index, one, one) for index, one in enumerate(audit["subjects"])]


def check(audit: Record) -> None:
    """Say at once when this is not an audit that the page can show.

    Args:
        audit: What `audit.json` holds.

    Raises:
        InvalidInput: Not a mapping, another format, no subject, or numbers that are not finite.
    """
    if not isinstance(audit, Mapping):
        raise InvalidInput("audit", type(audit).__name__, "a mapping as in audit.json")
    if audit.get("format") != 1:
        raise InvalidInput("audit", f"format {audit.get('format')!r}", "format 1")
    if not audit.get("subjects"):
        raise InvalidInput("audit", "no subjects", "at least one audited model")
    try:
        json.dumps(audit, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput("audit", str(error), "finite JSON values") from error
