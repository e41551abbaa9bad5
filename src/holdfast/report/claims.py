"""What exactly is claimed about each model; what is the same for all of them stands once."""

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.report.formats import count, number, percent, seconds
from holdfast.report.reading import Finding, Record, subjects
from holdfast.types import Outcome


@dataclass(frozen=True)
class Claim:
    """One line of the claims.

    Attributes:
        title: What it is about.
        text: What is claimed.
        code: What stands in front of the text, letter by letter.
        items: Sentences, each on its own.
    """

    title: str
    text: str
    code: str = ""
    items: tuple[str, ...] = ()


def claims(audit: Record) -> tuple[list[Claim], list[tuple[Finding, list[Claim]]]]:
    """Return what is claimed.

    Args:
        audit: What `audit.json` holds.

    Returns:
        What is claimed of all models in the same words, where there are several; and the rest of
        what is claimed of each.
    """
    every = [(finding, list(_claims(finding))) for finding in subjects(audit)]
    if len(every) < 2:
        return [], every
    first, *others = (known for _, known in every)
    shared = [claim for claim in first if all(claim in known for known in others)]
    return shared, [(one, [c for c in known if c not in shared]) for one, known in every]


def _claims(finding: Finding) -> Iterator[Claim]:
    """Yield everything that is claimed about one model."""
    subject = finding.subject
    if subject.get("description"):
        yield Claim("Model", subject["description"])
    right = subject.get("accuracy")
    facts = [f"{count(subject.get('parameters'))} parameters"]
    facts += [] if right is None else [f"{percent(right)} right"]
    yield Claim("Loaded from", "".join(f", {fact}" for fact in facts), subject.get("model") or "")
    yield Claim("Fingerprint", "", subject.get("fingerprint") or "")
    for part, told in _TOLD.items():
        record = subject.get(part)
        if record and record.get("refused"):
            yield Claim(_TITLES[part], "Refused; the reason stands in its section.")
        elif record:
            yield from told(record)


def _bracket(part: Record) -> Iterator[Claim]:
    outcome = part["outcome"]
    said = Outcome[outcome].value if outcome in Outcome.__members__ else outcome
    how = f"Lower bound by {part['lower_by']}, upper bound by {part['upper_by']}"
    yield Claim(_TITLES["lipschitz"], f"{how}; {seconds(part['seconds'])}. Outcome: {said}.")
    if part.get("assumptions"):
        yield Claim("Assumptions", "", items=tuple(part["assumptions"]))


def _certificates(part: Record) -> Iterator[Claim]:
    yield Claim(_TITLES["certificates"], f"Method {part['method']}. {part['guarantee']}")
    meanings = {
        "real": ": the exact real function of the stored weights; rounding while the network runs "
        "is not covered.",
        "float32": ": the network as executed, in any summation order.",
    }
    yield Claim("Semantics", meanings.get(part["semantics"], ""), part["semantics"])
    if part.get("level"):
        yield Claim(
            "Fresh inputs",
            f"Intervals hold with a confidence of {percent(part['level'])} each, exactly for any "
            "number of rows, for inputs drawn independently from where the rows came from. Rows "
            "that the model was trained on say nothing about fresh ones.",
        )


def _attacks(part: Record) -> Iterator[Claim]:
    yield Claim(_TITLES["attacks"], part["statement"])


def _substitutions(part: Record) -> Iterator[Claim]:
    yield Claim(
        _TITLES["substitutions"],
        f"Every version of {count(part['rows'])} inputs within {part['budget']} replaced words was "
        "run, each as if alone; nothing is claimed of other words or other texts.",
    )


def _knowledge(part: Record) -> Iterator[Claim]:
    about = f"Loss {part['loss']}, distance {part['distance']}, {count(part['n'])} inputs."
    yield Claim(_TITLES["knowledge"], f"{about} {part['statement']}")
    if part.get("rounding"):
        added = f"Of the outputs: it may add {number(part['rounding'])} to a change of loss"
        yield Claim("Rounding", f"{added}, on average.")


def _descent(part: Record) -> Iterator[Claim]:
    yield Claim(_TITLES["descent"], part["statement"])


_TITLES = {
    "lipschitz": "Rate of change",
    "certificates": "Certificates",
    "attacks": "Attacks",
    "substitutions": "Words replaced",
    "knowledge": "Knowledge",
    "descent": "Training step",
}
_TOLD = {
    "lipschitz": _bracket,
    "certificates": _certificates,
    "attacks": _attacks,
    "substitutions": _substitutions,
    "knowledge": _knowledge,
    "descent": _descent,
}
