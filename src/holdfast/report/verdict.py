"""The verdict in words: what is proved, how the models compare, and what to do next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast.report.formats import (
    at_least,
    at_most,
    count,
    given,
    listing,
    number,
    percent,
    percent_at_most,
)
from holdfast.report.frontier import headline
from holdfast.report.reading import Finding, Record, asked, finished, subjects

_PARTS = {
    "lipschitz": "bracket on the rate of change",
    "certificates": "certificates",
    "attacks": "attacks",
    "knowledge": "knowledge continuity",
    "descent": "training step",
}


@dataclass(frozen=True)
class Verdict:
    """The answer about one model.

    Attributes:
        finding: The model.
        sentence: The answer in words.
        shares: Shares of the inputs that are proved, undecided, attacked (where attacks were run)
            and wrong, where they are known.
    """

    finding: Finding
    sentence: str
    shares: Mapping[str, float] | None


def verdicts(audit: Record) -> list[Verdict]:
    """Return the answer about each model, in the order of the audit.

    Args:
        audit: What `audit.json` holds.

    Returns:
        One verdict per subject, from the strongest part that came to an end.
    """
    return [_verdict(audit, finding) for finding in subjects(audit)]


def _verdict(audit: Record, finding: Finding) -> Verdict:
    subject = finding.subject
    parts = {name: subject.get(name) or {} for name in _PARTS}
    shares = _shares(parts["certificates"], parts["attacks"])
    if shares is not None and audit.get("epsilon"):
        return Verdict(finding, _proved_sentence(audit, shares), shares)
    if parts["certificates"].get("median_radius"):
        radius = at_least(parts["certificates"]["median_radius"])
        rows = count(audit["data"]["rows"])
        sentence = (
            f"Half of {rows} test inputs provably keep the right answer "
            f"within an {audit['norm']} distance of {radius}."
        )
        return Verdict(finding, sentence, None)
    if (subject.get("conditions") or {}).get("metric") == "none":
        return Verdict(finding, _token_sentence(audit, finding), None)
    if parts["lipschitz"].get("upper"):
        known = rate(audit, parts["lipschitz"])
        return Verdict(
            finding, f"No distance is certified. The largest rate of change is {known}.", None
        )
    refusals = [part["refused"] for part in parts.values() if part.get("refused")]
    if refusals:
        return Verdict(finding, f"Nothing was proved: {refusals[0]}", None)
    return Verdict(finding, "No distance is certified.", None)


def _shares(part: Record, attacks: Record) -> dict[str, float] | None:
    """Return the shares of the verdict, which add up to one."""
    proved, clean = part.get("verified_accuracy"), part.get("clean_accuracy")
    if proved is None or clean is None:
        return None
    surviving = attacks.get("accuracy")
    if surviving is None:
        return {"proved": proved, "undecided": max(0.0, clean - proved), "wrong": 1.0 - clean}
    # Rounding in the run may move a row that is level with another class either way.
    surviving = min(max(surviving, proved), clean)
    return {
        "proved": proved,
        "undecided": surviving - proved,
        "attacked": clean - surviving,
        "wrong": 1.0 - clean,
    }


def _proved_sentence(audit: Record, shares: Mapping[str, float]) -> str:
    attacked = f"attacks change {percent(shares['attacked'])}; " if "attacked" in shares else ""
    return (
        f"Within an {audit['norm']} distance of {given(audit['epsilon'])}, "
        f"{percent(shares['proved'])} of {count(audit['data']['rows'])} test inputs provably keep "
        f"the right answer; {attacked}{percent(shares['undecided'])} are undecided and "
        f"{percent(shares['wrong'])} are wrong to begin with."
    )


def _token_sentence(audit: Record, finding: Finding) -> str:
    """Return the answer where inputs are token ids."""
    known = finding.subject["knowledge"]
    told = known.get("refused") or promise(Finding(finding.index, finding.subject, known))
    right = percent(finding.subject["accuracy"])
    return (
        f"Inputs are token ids: there is no distance between them that a radius could be measured "
        f"in. {right} of {count(audit['data']['rows'])} test inputs are answered rightly. {told}"
    )


def promise(finding: Finding) -> str:
    """Return what knowledge continuity proves about fresh data, in words.

    Args:
        finding: The knowledge of one model.
    """
    best = headline(finding)
    if best is None:
        return (
            "In no layer is anything proved of inputs that land near an anchor that is not proved "
            "of all: more rows make the bounds tighter."
        )
    return (
        f"With {given(100 * best.confidence)}% confidence, of fresh inputs that land within "
        f"{best.delta} of one of {count(best.anchors)} anchors in layer {best.layer or '(model)'}, "
        f"at most {percent_at_most(best.conditional)} have a loss that differs from the anchor's "
        f"by more than {best.eta}. Of all inputs it is at most {percent_at_most(best.anywhere)}."
    )


def rate(audit: Record, bracket: Record) -> str:
    """Return a bracket in words, bounds rounded outward.

    Args:
        audit: What `audit.json` holds.
        bracket: A finished `lipschitz` part.

    Returns:
        For example "at least 27.1 and at most 35.2 per unit of l2 distance".
    """
    unit = f"per unit of {audit['norm']} distance"
    lower, upper = bracket.get("lower"), bracket.get("upper")
    if upper is None:
        return f"at least {at_least(lower)} {unit}, with no proved upper bound"
    if not lower:
        return f"at most {at_most(upper)} {unit}"
    return f"at least {at_least(lower)} and at most {at_most(upper)} {unit}"


def comparison(audit: Record) -> list[str]:
    """Return what follows from the numbers of two or more models side by side.

    Args:
        audit: What `audit.json` holds.

    Returns:
        At most two sentences; empty where nothing follows.
    """
    return [sentence for sentence in (_compare_shares(audit), _compare_rates(audit)) if sentence]


def _compare_shares(audit: Record) -> str:
    found = [f for f in finished(audit, "certificates") if _shares(f.part, {})]
    if len(found) < 2 or not audit.get("epsilon"):
        return ""
    ranked = sorted(found, key=lambda f: -f.part["verified_accuracy"])
    best, worst = ranked[0], ranked[-1]
    gap = best.part["verified_accuracy"] - worst.part["verified_accuracy"]
    if gap <= 0:
        return ""
    cost = worst.part["clean_accuracy"] - best.part["clean_accuracy"]
    price = (
        f"and gives up {number(100 * cost)} points of clean accuracy for it"
        if cost > 0
        else "and gives up no clean accuracy for it"
    )
    return (
        f"{best.name} proves {percent(best.part['verified_accuracy'])} where {worst.name} proves "
        f"{percent(worst.part['verified_accuracy'])}, {price}."
    )


def _compare_rates(audit: Record) -> str:
    found = [f for f in finished(audit, "lipschitz") if f.part.get("upper")]
    if len(found) < 2:
        return ""
    calm = min(found, key=lambda f: f.part["upper"])
    steep = max(found, key=lambda f: f.part.get("lower") or 0.0)
    upper, lower = calm.part["upper"], steep.part.get("lower") or 0.0
    if upper >= lower:
        return ""
    return (
        f"The output of {calm.name} provably changes more slowly: at most {at_most(upper)} per "
        f"unit of {audit['norm']} distance, where {steep.name} reaches at least {at_least(lower)}."
    )


def next_steps(audit: Record) -> list[str]:
    """Return the most useful things to do next, the most urgent first.

    Args:
        audit: What `audit.json` holds.

    Returns:
        At most three sentences; empty where the numbers ask for nothing.
    """
    steps = (*_vacuous(audit), *_refused(audit), *_open_brackets(audit), *_wide_brackets(audit))
    return list(steps[:3])


def _vacuous(audit: Record) -> Iterator[str]:
    names = [
        f.name
        for f in finished(audit, "certificates")
        # hardly anything is proved of a model that is right more often than not
        if (f.part.get("verified_accuracy") or 0.0) < 0.1
        and (f.part.get("clean_accuracy") or 0.0) > 0.5
        and f.part.get("verified_accuracy") is not None
    ]
    if names:
        yield (
            f"{listing(names)}: the constant is vacuous at this distance: train with a bound, "
            "or use knowledge continuity."
        )


def _refused(audit: Record) -> Iterator[str]:
    for part, title in _PARTS.items():
        for finding in asked(audit, part):
            if finding.refused is not None:
                yield f"{finding.name}: no {title}: {finding.refused}"


def _open_brackets(audit: Record) -> Iterator[str]:
    for finding in finished(audit, "lipschitz"):
        ratio = finding.part.get("ratio")
        if finding.part.get("outcome") == "UNBOUNDED":
            yield (
                f"{finding.name}: no finite constant holds on the whole space: "
                "certify on a ball around each input, or use knowledge continuity."
            )
        elif finding.part.get("outcome") == "BUDGET_SPENT" and ratio and ratio > 1.1:
            yield (
                f"{finding.name}: the bracket is still open (upper ÷ lower is {number(ratio)}): "
                "give it more seconds."
            )


def _wide_brackets(audit: Record) -> Iterator[str]:
    for finding in finished(audit, "lipschitz"):
        ratio = finding.part.get("ratio")
        if finding.part.get("outcome") == "EXHAUSTED" and ratio and ratio > 5.0:
            yield (
                f"{finding.name}: every method has run and the bounds still differ by a factor of "
                f"{number(ratio)}: certify on a ball around each input for a tighter constant."
            )
