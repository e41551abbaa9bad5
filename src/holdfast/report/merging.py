"""Several audits on one page: the models of all of them, on the same data and distances."""

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import InvalidInput
from holdfast.report.reading import Record, check


def merged(audits: Sequence[Record]) -> Record:
    """Return one audit of the models of several.

    Args:
        audits: What each `audit.json` holds, at least one.

    Returns:
        The first audit with the subjects of all of them, in their order; names that stand for two
        models are numbered. Seconds are added up, commands stand below each other.

    Raises:
        InvalidInput: When one is no audit, or they are not about the same rows, norm, distance of
            the headline and version, so that their numbers must not stand beside each other.
    """
    for one in audits:
        check(one)
    first, *others = audits
    for one in others:
        for what, value in _common(one).items():
            if value != _common(first)[what]:
                got = f"audits with {what} {_common(first)[what]!r} and {value!r}"
                raise InvalidInput("runs", got, f"the same {what} in all of them")
    if not others:
        return first
    said = dict.fromkeys(sentence for one in audits for sentence in one.get("warnings") or ())
    stopped = [one["stopped"] for one in audits if one.get("stopped")]
    citations = {c["key"]: c for one in audits for c in one.get("citations") or ()}
    return {
        **first,
        "created": max(one["created"] for one in audits),
        "seconds": sum(one["seconds"] for one in audits),
        "command": "\n".join(dict.fromkeys(one["command"] for one in audits)),
        "machine": "; ".join(dict.fromkeys(one["machine"] for one in audits)),
        "subjects": _numbered([subject for one in audits for subject in one["subjects"]]),
        "citations": list(citations.values()),
        **({"warnings": list(said)} if said else {}),
        **({"stopped": "; ".join(stopped)} if stopped else {}),
    }


def _common(audit: Record) -> dict[str, Any]:
    """Return what must be the same where numbers stand beside each other."""
    return {
        "version": audit["holdfast"],
        "data": audit["data"]["sha256"],
        "norm": audit.get("norm"),
        "epsilon": audit.get("epsilon"),
        "distances": audit.get("distances"),
    }


def _numbered(subjects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the subjects with a number behind names that occur twice."""
    names = [subject["name"] for subject in subjects]
    seen: dict[str, int] = {}
    found = []
    for subject in subjects:
        name = subject["name"]
        seen[name] = seen.get(name, 0) + 1
        told = name if names.count(name) == 1 else f"{name} ({seen[name]})"
        found.append({**subject, "name": told})
    return found
