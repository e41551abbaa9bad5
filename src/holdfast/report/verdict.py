"""The verdict in words: what is proved, how the models compare, and what to do next."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.certificates.misleading import uneven_advice
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
from holdfast.report.reading import Finding, Record, finished, inputs, subjects

_PARTS = {
    "lipschitz": "bracket on the rate of change",
    "certificates": "certificates",
    "attacks": "attacks",
    "knowledge": "knowledge continuity",
    "descent": "training step",
}


_CALLED = {
    "meaningful": "the certified radii are not small beside the data",
    "vacuous": "the certified radii are too small beside the data to say much",
    "unbounded": "nothing finite is proved",
}


@dataclass(frozen=True)
class Verdict:
    """The answer about one model.

    Attributes:
        finding: The model.
        figure: The number that answers first, as text; empty where there is none.
        caption: What the number is.
        sentence: The answer in words.
        fresh: The same for inputs that nobody has seen, with an interval; empty where not known.
        shares: Shares of the inputs that are proved, undecided, attacked (where attacks were run)
            and wrong, within the distance that the user named; None where there is none.
    """

    finding: Finding
    sentence: str
    figure: str = ""
    caption: str = ""
    fresh: str = ""
    shares: Mapping[str, float] | None = None


def verdicts(audit: Record) -> list[Verdict]:
    """Return the answer about each model, in the order of the audit.

    Args:
        audit: What `audit.json` holds.

    Returns:
        One verdict per subject, from the strongest part that came to an end.
    """
    return [_verdict(audit, finding) for finding in subjects(audit)]


def judgement(conditions: Record) -> tuple[str, str]:
    """Return the one word on whether certificates make sense for a model, and what it means.

    Every place of the page that judges a model's certificates takes its word from here.

    Args:
        conditions: A finished `conditions` part.

    Returns:
        `meaningful`, `vacuous` or `unbounded`, as `holdfast.conditions` decides; and the meaning.
    """
    word = conditions["bounded"]
    return word, _CALLED.get(word, "")


def _verdict(audit: Record, finding: Finding) -> Verdict:
    subject = finding.subject
    parts = {name: subject.get(name) or {} for name in _PARTS}
    shares = _shares(parts["certificates"], parts["attacks"])
    if shares is not None and audit.get("epsilon"):
        return _proved_within(audit, finding, shares)
    if parts["certificates"].get("median_radius") is not None:
        return _proved_up_to(audit, finding)
    if (subject.get("conditions") or {}).get("metric") == "none":
        return _of_sentences(audit, finding)
    if parts["lipschitz"].get("upper"):
        known = rate(audit, parts["lipschitz"])
        return Verdict(finding, f"No distance is certified. The largest rate of change is {known}.")
    refusals = [part["refused"] for part in parts.values() if part.get("refused")]
    if refusals:
        return Verdict(finding, f"Nothing was proved: {refusals[0]}")
    return Verdict(finding, "No distance is certified.")


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


def _proved_within(audit: Record, finding: Finding, shares: Mapping[str, float]) -> Verdict:
    """Return the shares at the distance that the user named."""
    attacked = f"attacks change {percent(shares['attacked'])}; " if "attacked" in shares else ""
    part, epsilon = finding.subject["certificates"], given(audit["epsilon"])
    sentence = (
        f"Within an {audit['norm']} distance of {epsilon}, "
        f"{percent(shares['proved'])} of {_rows(audit)} provably keep "
        f"the right answer; {attacked}{percent(shares['undecided'])} are undecided and "
        f"{percent(shares['wrong'])} are wrong to begin with."
    )
    known = [one for one in part.get("shares") or () if one["distance"] == audit["epsilon"]]
    fresh = (
        f"Of all fresh inputs: {share_interval(known[0])}, with 95% confidence." if known else ""
    )
    caption = f"provably right within {audit['norm']} {epsilon}"
    return Verdict(finding, sentence, percent(shares["proved"]), caption, fresh, shares)


def _proved_up_to(audit: Record, finding: Finding) -> Verdict:
    """Return the distances that half of the inputs are proved and attacked within."""
    part, attacks = finding.subject["certificates"], finding.subject.get("attacks") or {}
    rows, norm, proved = _rows(audit), audit["norm"], part["median_radius"]
    radius = at_least(proved)
    told = f"Half of {rows} provably keep the right answer up to an {norm} distance of {radius}"
    if not proved:
        told = f"Fewer than half of {rows} provably keep the right answer at any distance"
    broken = attacks.get("median_distance")
    if broken is not None:
        told += f"; attacks change half of them within {at_most(broken)}"
    half = half_way(audit)
    if half is not None:
        told += f". Half way to the nearest input with another label is {number(half)}"
    fresh = _median_interval(part.get("median_interval"))
    caption = f"{norm}: half of {rows} provably stay right up to here"
    return Verdict(finding, f"{told}.", radius, caption, fresh)


def _rows(audit: Record) -> str:
    return f"{count(audit['data']['rows'])} {inputs(audit)}"


def half_way(audit: Record) -> float | None:
    """Return half the distance to the nearest input with another label, for half of the inputs.

    Args:
        audit: What `audit.json` holds.

    Returns:
        The distance, which all models share; None where rows have one label or no distance.
    """
    known = [f.part for f in finished(audit, "conditions") if f.part.get("resolution")]
    # Where there is no other label, the data resolve no more than the step of their values.
    same = bool(known) and known[0]["resolution"] == known[0].get("quantisation")
    return known[0]["resolution"] if known and not same else None


def share_interval(share: Record) -> str:
    """Return the interval of a share for fresh inputs, rounded outward to a tenth of a percent."""
    low, high = math.floor(1000 * share["low"]) / 10, math.ceil(1000 * share["high"]) / 10
    return f"{low:.1f} to {high:.1f}%"


def _median_interval(ends: Sequence[float | None] | None) -> str:
    if ends is None:
        return ""
    low, high = at_least(ends[0]), ends[1]
    if high is None:
        return f"For half of all fresh inputs: at least {low}, with 95% confidence."
    return f"For half of all fresh inputs: {low} to {at_most(high)}, with 95% confidence."


def _of_sentences(audit: Record, finding: Finding) -> Verdict:
    """Return the answer where inputs are token ids: what flips, which words do it, the frontier."""
    known = finding.subject.get("knowledge") or {}
    told = known.get("refused") or promise(Finding(finding.index, finding.subject, known))
    right = f"{percent(finding.subject.get('accuracy'))} of {_rows(audit)} are answered rightly."
    replaced = finding.subject.get("substitutions") or {}
    if replaced.get("certified"):
        return _with_words_replaced(audit, finding, f"{right} {told}")
    flips = finding.subject.get("flips")
    if flips is None:
        tried = "No substitutions were tried, so it is not known which words change an answer."
        return Verdict(finding, f"{right} {tried} {told}")
    flipped, figure = flips["flipped"], percent(flips["flipped"]["share"])
    sentence = (
        f"{count(flipped['count'])} of {count(flips['rows'])} {inputs(audit)} change their answer "
        f"with other words, of which {count(flips['tried'])} versions were tried"
    )
    if flips["words"]:
        most = flips["words"][0]
        sentence += (
            f", most often with {replacement(most)} ({most['flipped']} of {most['tried']} times)"
        )
    fresh = f"Of all fresh inputs: {share_interval(flipped)}, with 95% confidence."
    return Verdict(finding, f"{sentence}. {right} {told}", figure, "change their answer", fresh)


def _with_words_replaced(audit: Record, finding: Finding, more: str) -> Verdict:
    """Return the answer where every sentence with words replaced was run."""
    part = finding.subject["substitutions"]
    words = "any one word is" if part["budget"] == 1 else f"up to {part['budget']} words are"
    kept, changed, unknown = (part[k]["count"] for k in ("certified", "changed", "unknown"))
    sentence = (
        f"{count(kept)} of {count(part['rows'])} {inputs(audit)} provably keep their right answer "
        f"when {words} replaced as {part['source']} has it; {count(changed)} change it"
    )
    sentence += f"; {count(unknown)} are undecided" * bool(unknown)
    figure = percent(part["certified"]["share"])
    fresh = f"Of all fresh inputs: {share_interval(part['certified'])}, with 95% confidence."
    return Verdict(finding, f"{sentence}. {more}", figure, "keep their answer", fresh)


def replacement(word: Record) -> str:
    """Return what was replaced by what, in words.

    Args:
        word: One of the `words` of a `flips` part.
    """
    old, new = word["from"], word["to"]
    if not old:
        return f"“{new}” added"
    return f"“{old}” left out" if not new else f"“{new}” for “{old}”"


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
    beside = f" (typical is {best.typical})" if best.typical else ""
    return (
        f"With {given(100 * best.confidence)}% confidence, of fresh inputs that land within "
        f"{best.delta} of one of {count(best.anchors)} anchors in layer "
        f"{best.layer or '(model)'}{beside}, "
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
    """Compare what is proved, at the user's distance or by the distances of the median."""
    epsilon = audit.get("epsilon")
    key = "verified_accuracy" if epsilon else "median_radius"
    found = [f for f in finished(audit, "certificates") if f.part.get(key) is not None]
    if len(found) < 2:
        return ""
    ranked = sorted(found, key=lambda f: -f.part[key])
    best, worst = ranked[0], ranked[-1]
    if best.part[key] <= worst.part[key]:
        return ""
    cost = worst.part["clean_accuracy"] - best.part["clean_accuracy"]
    price = (
        f"and gives up {number(100 * cost)} points of clean accuracy for it"
        if cost > 0
        else "and gives up no clean accuracy for it"
    )
    if epsilon:
        more, less = percent(best.part[key]), percent(worst.part[key])
        return f"{best.name} proves {more} where {worst.name} proves {less}, {price}."
    more, less = at_least(best.part[key]), at_least(worst.part[key])
    return (
        f"For half of the inputs {best.name} proves a distance of {more} where {worst.name} proves "
        f"{less}, {price}."
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
        At most four sentences; empty where the numbers ask for nothing.
    """
    uneven = uneven_advice(audit["data"].get("uneven"))
    steps = (*_warnings(audit), *_judged(audit), *_untried(audit), *uneven, *_refused(audit))
    steps += (*_open_brackets(audit), *_wide_brackets(audit))
    return list(steps[:4])


def _warnings(audit: Record) -> Iterator[str]:
    """Say what makes results mislead: it comes before what they ask for."""
    for sentence in audit.get("warnings", ()):
        yield f"{sentence[0].upper()}{sentence[1:]}."


def _judged(audit: Record) -> Iterator[str]:
    """Say what to do where certificates say little; one sentence for models alike."""
    told: dict[str, list[str]] = {}
    for finding in finished(audit, "conditions"):
        if finding.part["metric"] != "none" and judgement(finding.part)[0] != "meaningful":
            told.setdefault(finding.part["advice"], []).append(finding.name)
    for advice, names in told.items():
        yield f"{listing(names)}: {advice}"


def _untried(audit: Record) -> Iterator[str]:
    """Ask for substitutions where inputs are sentences and none were tried."""
    sentences = [f for f in finished(audit, "conditions") if f.part["metric"] == "none"]
    tried = ("flips", "substitutions")
    if sentences and not any(f.subject.get(part) for f in sentences for part in tried):
        yield (
            "Say which words may stand for each other, with --substitutions json:FILE, or give "
            "versions of the sentences, as ?perturbed=COLUMN of the data: then this page says "
            "how many answers change, and with which words."
        )


def _refused(audit: Record) -> Iterator[str]:
    """Say what was refused, once for each reason of a model."""
    for finding in subjects(audit):
        told: dict[str, list[str]] = {}
        for part, title in _PARTS.items():
            refused = (finding.subject.get(part) or {}).get("refused")
            if refused is not None:
                told.setdefault(refused, []).append(title)
        for reason, titles in told.items():
            yield f"{finding.name}: no {listing(titles)}: {reason}"


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
